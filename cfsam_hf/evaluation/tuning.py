"""What the scripts share that choose a checkpoint's settings on training tiles and write them into its processor."""

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


def training_tiles(data: Sequence[str], tiles: int) -> dict[str, list[TileRecord]]:
    """Training tiles by data set, evenly spread over each data set's list.

    Args:
        data: folders of tiles, as [`cfsam_hf.data.data_items.DataItem`] reads them.
        tiles: how many of a data set; all where it has no more.

    Raises:
        ValueError: `tiles` is not positive, a data item cannot be read, or there are no training tiles.
        OSError: a data set is missing.
    """
    if tiles < 1:
        raise ValueError(f"tiles must be positive, got {tiles}")
    chosen = {}
    for name, records in records_by_dataset([DataItem.parse(text) for text in data], "train").items():
        places = np.linspace(0, len(records) - 1, min(tiles, len(records))).round().astype(int)
        chosen[name] = [records[place] for place in np.unique(places)]
    if not chosen:
        raise ValueError(f"there are no training tiles in {', '.join(data)}")
    return chosen


def checkpoint_folder(checkpoint: str | os.PathLike) -> Path:
    """The folder of a checkpoint whose processor is to be written again.

    Raises:
        OSError: there is no such folder; a name such as `cfsam-tiny` is none.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise OSError(f"{folder}: no such folder; give a checkpoint's folder, since its processor file is rewritten")
    return folder


def write_processor_options(
    checkpoint: str | os.PathLike, image_processor: CfSamImageProcessor, **options: Any
) -> None:
    """Sets options of an image processor, and writes them into its checkpoint's file, whole or not at all.

    Everything else in the file stays, such as where the code of an exported checkpoint lies. A checkpoint without that
    file gets one.

    Args:
        checkpoint: folder of the checkpoint.
        image_processor: what was loaded from it.
        options: new values by name.

    Raises:
        OSError: there is no such folder, or the file cannot be written.
        ValueError: a value is out of its range.
    """
    folder = checkpoint_folder(checkpoint)
    # Made anew, so that the values are checked.
    changed = CfSamImageProcessor.from_dict({**image_processor.to_dict(), **options})
    for name in options:
        setattr(image_processor, name, getattr(changed, name))
    path = folder / PROCESSOR_NAME
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        record.setdefault("image_processor", {}).update(options)
        write_json(path, record)
    else:
        # A processor's file, as training writes it: an image processor's own beside one would not be read.
        with staged_folder(folder) as stage:
            CfSamProcessor(changed).save_pretrained(stage)
