"""A data set as a `datasets.Dataset` whose tiles are decoded when their rows are used."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .registry import list_tiles

if TYPE_CHECKING:
    from datasets import Dataset


def load_nuclei_dataset(name: str, path: str | Path, split: str | None = None, **options: Any) -> "Dataset":
    """Opens a data set as a `datasets.Dataset` whose tiles are decoded when their rows are used.

    Args:
        name, path, split, options: as in `list_tiles`.

    Returns:
        A data set of one row per tile, with `image` (H, W, 3) uint8, `instance_map` (H, W) int32, `type_map` (H, W)
        int16 or None, `annotated` (H, W) bool or None, and the metadata `id`, `tissue`, `mpp`, `fold`, `image_path`
        and `label_path`. Every operation of `datasets` keeps these columns. In memory a tile is a pointer to its
        files, so `select`, `shuffle`, `sort` and `unique` decode nothing, nor does `filter` by metadata:
        `dataset.filter(lambda tissue: tissue == "Colon", input_columns="tissue")`. `save_to_disk` writes the decoded
        arrays; before opening the result in another process, import `cfsam_hf.data.tile_features`.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError, OSError: as in `list_tiles`, and as in `TileRecord.load` when a row is used.
    """
    try:
        from datasets import Dataset, Features, Value
    except ImportError as error:
        raise ImportError("load_nuclei_dataset needs the `datasets` package: pip install 'cfsam_hf[train]'") from error
    # Imported here, since it needs `datasets` too.
    from .tile_features import TileValue, tile_pointers

    records = list_tiles(name, path, split=split, **options)
    decoded = ["image", "instance_map", "type_map", "annotated"]
    rows: dict[str, list[Any]] = {
        "id": [record.id for record in records],
        "tissue": [record.tissue for record in records],
        "mpp": [record.mpp for record in records],
        "fold": [record.fold for record in records],
        "image_path": [str(record.image_path) for record in records],
        "label_path": [str(record.label_path) for record in records],
    }
    if None in rows["mpp"]:
        # Some files state their pixel size inside.
        decoded.append("mpp")
    pointers = tile_pointers(name, path, options, records)
    features = {column: Value("float64" if column == "mpp" else "string") for column in rows}
    features |= {column: TileValue(column) for column in decoded}
    return Dataset.from_dict(rows | dict.fromkeys(decoded, pointers), features=Features(features))
