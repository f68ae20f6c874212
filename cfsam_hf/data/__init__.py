"""Data sets of nuclei: readers, training targets, augmentation and crops."""

from .audit import Audit, audit_dataset
from .crops.augmentation import AugmentationOptions, augment_image, jitter_stains
from .crops.dataset import CropDataset, CropSource
from .crops.sampling import SamplingOptions
from .crops.targets import boundary_labels, hv_labels, make_targets, nuclei_labels, split_torn_nuclei, type_labels
from .leaks import find_leaks
from .nuclei_dataset import load_nuclei_dataset
from .parquet_writer import write_shards
from .polygons import Overlaps
from .readers.given_nuclei import GivenNuclei, read_given_nuclei
from .records import UNKNOWN_TYPE, Tile, TileRecord
from .registry import READERS, list_tiles
from .splits import Split, read_split, select_tiles
from .vocabulary import joint_type_names, match_types, rename_types

__all__ = [
    "READERS",
    "UNKNOWN_TYPE",
    "Audit",
    "AugmentationOptions",
    "CropDataset",
    "CropSource",
    "GivenNuclei",
    "Overlaps",
    "SamplingOptions",
    "Split",
    "Tile",
    "TileRecord",
    "audit_dataset",
    "augment_image",
    "boundary_labels",
    "find_leaks",
    "hv_labels",
    "jitter_stains",
    "joint_type_names",
    "list_tiles",
    "load_nuclei_dataset",
    "make_targets",
    "match_types",
    "nuclei_labels",
    "read_given_nuclei",
    "read_split",
    "rename_types",
    "select_tiles",
    "split_torn_nuclei",
    "type_labels",
    "write_shards",
]
