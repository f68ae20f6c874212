"""Functions that write a [`NucleiResult`] to files: label map, GeoJSON, table, COCO, ImageJ ROIs, summary."""

from ..model.result import TypeStyle, provenance, type_styles
from .coco import coco_record, write_coco
from .geojson import nucleus_features, write_geojson
from .imagej_rois import nucleus_rois, write_rois
from .instance_map import write_instance_map
from .placement import Placement, place_result
from .summary import SUMMARY_COLUMNS, summary_rows, write_summary
from .table import write_csv, write_table

__all__ = [
    "SUMMARY_COLUMNS",
    "Placement",
    "TypeStyle",
    "coco_record",
    "nucleus_features",
    "nucleus_rois",
    "place_result",
    "provenance",
    "summary_rows",
    "type_styles",
    "write_coco",
    "write_csv",
    "write_geojson",
    "write_instance_map",
    "write_rois",
    "write_summary",
    "write_table",
]
