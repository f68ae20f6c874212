"""Publishing a checkpoint on the Hub: self-describing folders, their cards, and the push."""

from .export import export_for_hub
from .folder import check_folder, code_files
from .push import PushPlan, plan_push, push_folder

__all__ = ["PushPlan", "check_folder", "code_files", "export_for_hub", "plan_push", "push_folder"]
