"""Data sets of nuclei: readers, training targets, augmentation and crops."""

from .augmentation import AugmentationParameters, augment_image, jitter_stains
from .crops import CropDataset, CropSource
from .records import UNKNOWN_TYPE, Tile, TileRecord
from .registry import READERS, list_tiles, load_nuclei_dataset
from .splits import Split, read_split, select_tiles
from .targets import boundary_labels, hv_labels, make_targets, nuclei_labels, split_torn_nuclei, type_labels

__all__ = [
    "READERS",
    "UNKNOWN_TYPE",
    "AugmentationParameters",
    "CropDataset",
    "CropSource",
    "Split",
    "Tile",
    "TileRecord",
    "augment_image",
    "boundary_labels",
    "hv_labels",
    "jitter_stains",
    "list_tiles",
    "load_nuclei_dataset",
    "make_targets",
    "nuclei_labels",
    "read_split",
    "select_tiles",
    "split_torn_nuclei",
    "type_labels",
]
