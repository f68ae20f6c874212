"""Export a checkpoint and push it to the Hugging Face Hub as a private repository, in one commit.

    python examples/tools/push_to_hub.py --checkpoint runs/sam-b/model --repository NAMESPACE/NAME --dry_run
    python examples/tools/push_to_hub.py --checkpoint runs/sam-b/model --repository NAMESPACE/NAME

The token comes from `hf auth login` or `HF_TOKEN`. `cfsam export` and `cfsam push` do the same in two commands.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.publish import export_for_hub, plan_push, push_folder


@dataclass
class PushOptions:
    checkpoint: str = field(metadata={"help": "folder or Hub id of a CF-SAM model"})
    repository: str = field(metadata={"help": "target: NAMESPACE/NAME"})
    card: str | None = field(
        default=None,
        metadata={"help": "the card; default: the checkpoint's, or one made from its configuration"},
    )
    public: bool = field(default=False, metadata={"help": "make a new repository public"})
    update: bool = field(default=False, metadata={"help": "add a commit to an existing repository"})
    dry_run: bool = field(default=False, metadata={"help": "list the files, and send nothing"})


def main() -> None:
    options = HfArgumentParser(PushOptions).parse_args_into_dataclasses()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_for_hub(options.checkpoint, Path(scratch) / "model", card=options.card)
        plan = plan_push(folder, options.repository, private=not options.public)
        for name, size in plan.files:
            print(f"{size:>12,}  {name}")
        if options.dry_run:
            print(f"{plan.total:>12,}  bytes in all; nothing was sent")
            return
        commit = push_folder(plan, update=options.update)
        print(f"{plan.total:>12,}  bytes in all -> {commit.repo_url}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
