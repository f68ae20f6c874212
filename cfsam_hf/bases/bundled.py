"""The checkpoints that the package ships. Importing this module imports nothing else."""

from pathlib import Path

DEFAULT_CHECKPOINT = "cfsam-tiny"

_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def bundled_names() -> list[str]:
    """Names of the checkpoints that are shipped."""
    return sorted(path.parent.name for path in _CHECKPOINTS.glob("*/config.json"))


def bundled_checkpoint(name: str = DEFAULT_CHECKPOINT) -> Path:
    """Folder of a checkpoint that is shipped with the package, ready for `from_pretrained`.

    Args:
        name (`str`, defaults to `"cfsam-tiny"`).

    Raises:
        ValueError: no checkpoint of that name is shipped.
    """
    if name not in bundled_names():
        raise ValueError(f"No checkpoint {name!r} is bundled; choose from {bundled_names()}.")
    return _CHECKPOINTS / name


def or_bundled(checkpoint: str) -> str:
    """The folder of a bundled checkpoint for its name; a folder of that name here, or anything else, unchanged."""
    if Path(checkpoint).is_dir() or checkpoint not in bundled_names():
        return checkpoint
    return str(bundled_checkpoint(checkpoint))
