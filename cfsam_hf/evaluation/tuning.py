"""Helpers of the scripts that choose settings on tuning tiles and write them into a checkpoint's processor file."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import PROCESSOR_NAME

from ..data import TileRecord
from ..data.data_items import DataItem, records_by_dataset
from ..files.atomic import staged_folder
from ..files.json_files import write_json
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.processing_cfsam import CfSamProcessor


def tuning_tiles(data: Sequence[str], tiles: int) -> dict[str, list[TileRecord]]:
    """Chooses tiles of each data set to tune settings on, evenly spread over its list.

    These are the tuning tiles of its split, on which the network was not trained; or, without any, its training tiles.
    Settings chosen on training tiles suit maps that the network has memorised.

    Args:
        data: folders of tiles, as [`cfsam_hf.data.data_items.DataItem`] reads them.
        tiles: tiles per data set; a data set with fewer gives all.

    Raises:
        ValueError: `tiles` is not positive, a data item cannot be read, or there are no such tiles.
        OSError: a data set is missing.
    """
    if tiles < 1:
        raise ValueError(f"tiles must be positive, got {tiles}")
    items = [DataItem.parse(text) for text in data]
    chosen = {}
    for name, records in (records_by_dataset(items, "train") | records_by_dataset(items, "tuning")).items():
        places = np.linspace(0, len(records) - 1, min(tiles, len(records))).round().astype(int)
        chosen[name] = [records[place] for place in np.unique(places)]
    if not chosen:
        raise ValueError(f"there are no tuning or training tiles in {', '.join(data)}")
    return chosen


def checkpoint_folder(checkpoint: str | os.PathLike) -> Path:
    """The folder of a checkpoint whose processor file will be rewritten.

    Raises:
        OSError: there is no such folder; a name such as `cfsam-tiny` is not a folder.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise OSError(f"{folder}: no such folder; give a checkpoint's folder, since its processor file is rewritten")
    return folder


def write_processor_options(
    checkpoint: str | os.PathLike, image_processor: CfSamImageProcessor, **options: Any
) -> None:
    """Sets options of an image processor and writes them into its checkpoint's file, whole or not at all.

    The rest of the file stays unchanged, such as the entries that name an exported checkpoint's code. A checkpoint
    without the file gets one.

    Args:
        checkpoint: folder of the checkpoint.
        image_processor: the processor loaded from it.
        options: new values by name.

    Raises:
        OSError: there is no such folder, or the file cannot be written.
        ValueError: a value is out of its range.
    """
    folder = checkpoint_folder(checkpoint)
    # A new processor checks the values.
    changed = CfSamImageProcessor.from_dict({**image_processor.to_dict(), **options})
    for name in options:
        setattr(image_processor, name, getattr(changed, name))
    path = folder / PROCESSOR_NAME
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        record.setdefault("image_processor", {}).update(options)
        write_json(path, record)
    else:
        # The processor's file, as training writes it: transformers ignores an image processor's own file beside it.
        with staged_folder(folder) as stage:
            CfSamProcessor(changed).save_pretrained(stage)
