"""The metrics as modules of Hugging Face's `evaluate`, loaded from their folder in this package."""

from pathlib import Path

EVALUATE_MODULES = (
    "nuclei_aggregated_jaccard_index",
    "nuclei_boundary_f1",
    "nuclei_detection",
    "nuclei_multiclass_panoptic_quality",
    "nuclei_panoptic_quality",
    "nuclei_score_calibration",
)


def evaluate_module(name: str) -> str:
    """Path of a module, to be given to `evaluate.load`.

    Args:
        name: one of `EVALUATE_MODULES`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> evaluate_module("nuclei_detection").endswith("nuclei_detection")
        True
    """
    if name not in EVALUATE_MODULES:
        raise ValueError(f"no evaluate module {name!r}; choose from {', '.join(EVALUATE_MODULES)}")
    return str(Path(__file__).parent / name)
