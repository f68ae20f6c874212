"""The checkpoints that the package ships. Importing this module imports nothing else."""

from pathlib import Path

DEFAULT_CHECKPOINT = "cfsam-tiny"

_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def default_checkpoint_folder() -> Path:
    """Where the default checkpoint is in the package."""
    return _CHECKPOINTS / DEFAULT_CHECKPOINT


def bundled_checkpoint(name: str = DEFAULT_CHECKPOINT) -> Path:
    """Folder of a checkpoint that is shipped with the package, ready for `from_pretrained`.

    Args:
        name (`str`, defaults to `"cfsam-tiny"`).

    Raises:
        ValueError: no checkpoint of that name is shipped.
    """
    folder = _CHECKPOINTS / name
    if "/" in name or not (folder / "config.json").is_file():
        known = sorted(path.parent.name for path in _CHECKPOINTS.glob("*/config.json"))
        raise ValueError(f"No checkpoint {name!r} is bundled; choose from {known}.")
    return folder
