"""Functions that write a [`NucleiResult`] to files: label map, GeoJSON, table, COCO, overlay picture, summary."""

from .atomic import atomic_path, staged_folder
from .coco import coco_record, write_coco
from .geojson import nucleus_features, write_geojson
from .instance_map import write_instance_map
from .overlay import draw_contours, frame_overlay, render_overlay, write_overlay
from .provenance import TypeStyle, provenance, type_styles
from .summary import SUMMARY_COLUMNS, summary_rows, write_summary
from .table import write_csv, write_table

__all__ = [
    "SUMMARY_COLUMNS",
    "TypeStyle",
    "atomic_path",
    "coco_record",
    "draw_contours",
    "frame_overlay",
    "nucleus_features",
    "provenance",
    "render_overlay",
    "staged_folder",
    "summary_rows",
    "type_styles",
    "write_coco",
    "write_csv",
    "write_geojson",
    "write_instance_map",
    "write_overlay",
    "write_summary",
    "write_table",
]
