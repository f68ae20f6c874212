"""Whole slides: opening the scanner's file and reading regions of it at any pixel size."""

from .description import describe_slide, format_slide
from .opening import open_slide
from .slide import Level, Slide

__all__ = ["Level", "Slide", "describe_slide", "format_slide", "open_slide"]
