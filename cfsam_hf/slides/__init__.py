"""Whole slides: opening the scanner's file, reading regions of it at any pixel size, finding its tissue."""

from .areas import Areas, read_areas
from .bundled import demo_slide
from .description import describe_slide, format_slide
from .dicom_folders import dicom_series, dicom_slide
from .opening import open_slide
from .slide import Level, Slide
from .tissue import TissueMask, find_tissue, read_tissue, tissue_geojson, whole_slide

__all__ = [
    "Areas",
    "Level",
    "Slide",
    "TissueMask",
    "demo_slide",
    "describe_slide",
    "dicom_series",
    "dicom_slide",
    "find_tissue",
    "format_slide",
    "open_slide",
    "read_areas",
    "read_tissue",
    "tissue_geojson",
    "whole_slide",
]
