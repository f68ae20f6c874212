"""Evaluation of a system on annotated tiles: one results file with intervals, tables and pictures.

`evaluate_records` scores a system on tiles, in several processes if they were launched; `dataset_record` and
`results_record` turn the scores into the record of the results file; `write_report` writes it. `cfsam evaluate` is the
command.
"""

from .bootstrap import bootstrap_intervals
from .label_maps import LabelMapFolder
from .pannuke_protocol import evaluate_pannuke
from .per_image import per_image_table
from .predictions import Prediction
from .processes import Processes
from .report import write_report
from .results import dataset_record, results_record
from .run import evaluate_records
from .scoring import TileScore, score_tile, summarize_tiles
from .systems import System, checkpoint_system, classical_system, folder_system
from .tables import comparison, report
from .tile_pages import ShownTile, ranked_tiles, tiles_page

__all__ = [
    "LabelMapFolder",
    "Prediction",
    "Processes",
    "ShownTile",
    "System",
    "TileScore",
    "bootstrap_intervals",
    "checkpoint_system",
    "classical_system",
    "comparison",
    "dataset_record",
    "evaluate_pannuke",
    "evaluate_records",
    "folder_system",
    "per_image_table",
    "ranked_tiles",
    "report",
    "results_record",
    "score_tile",
    "summarize_tiles",
    "tiles_page",
    "write_report",
]
