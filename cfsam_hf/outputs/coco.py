"""Writes the nuclei of one or several images as a COCO file with run-length masks."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..files.json_files import write_json
from ..model.result import NucleiResult, provenance, type_styles

BOX = ("bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1")
ANNOTATED = ("id", "type", "area_px", "score", "type_probability")


def mask_run_lengths(mask: np.ndarray, box: Sequence[int], image_size: tuple[int, int]) -> list[int]:
    """COCO's run lengths of a mask: background, mask, background, ... down the columns of the whole image.

    Args:
        mask: (h, w) bool, the mask within its box; not empty.
        box: half-open (x0, y0, x1, y1) in pixels of the image.
        image_size: (W, H) of the image.

    Returns:
        Lengths that add up to W * H; the first is background and may be 0.
    """
    width, height = image_size
    x0, y0 = int(box[0]), int(box[1])
    padded = np.zeros((mask.shape[1], mask.shape[0] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask.T
    changes = np.diff(padded, axis=1)
    columns, starts = np.nonzero(changes == 1)
    _, ends = np.nonzero(changes == -1)
    starts = (x0 + columns) * height + y0 + starts
    ends = (x0 + columns) * height + y0 + ends
    # A run that reaches the bottom continues at the top of the next column.
    joined = np.flatnonzero(starts[1:] == ends[:-1])
    starts, ends = np.delete(starts, joined + 1), np.delete(ends, joined)
    edges = np.empty(2 * len(starts) + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, width * height
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    lengths: list[int] = np.diff(edges).tolist()
    return lengths if lengths[-1] else lengths[:-1]


def compress_run_lengths(lengths: Sequence[int]) -> str:
    """COCO's text form of run lengths: differences to the length two before, five bits a character.

    Source: `rleToString` in the COCO API (maskApi.c), whose reader is the test's oracle.
    """
    text = []
    for index, length in enumerate(lengths):
        value = length - lengths[index - 2] if index > 2 else length
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text.append(chr((bits | 0x20 if more else bits) + 48))
    return "".join(text)


def coco_record(results: Sequence[NucleiResult]) -> dict[str, Any]:
    """The COCO dictionary of some images' nuclei: `info`, `images`, `annotations`, `categories`.

    Each annotation has the compressed run lengths of its mask, `area`, `bbox` (x, y, width, height), `score`
    (unless it is unknown), and,
    in addition to COCO's members, the nucleus's `instance_id` in its label map and its `type_probability`. Category
    ids are the type ids (1 for "nucleus" if the model has no types).

    Raises:
        ValueError: the results know different types, so that one list of categories cannot name them all.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        own = [{"id": s.type_id or 1, "name": s.name, "supercategory": "nucleus"} for s in type_styles(result)]
        if categories and own != categories:
            raise ValueError(
                f"One COCO file needs one list of types, got {[c['name'] for c in categories]} and "
                f"{[c['name'] for c in own]}; write a file for each checkpoint."
            )
        categories = own
        width, height = (int(side) for side in result.image_size)
        images.append(
            {"id": image_id, "file_name": result.image_name or "", "width": width, "height": height, "mpp": result.mpp}
        )
        annotations += _annotations(result, image_id, len(annotations) + 1)
    info = {"description": "Nuclei found by cfsam_hf", **(provenance(results[0]) if len(results) else {})}
    if len(results) > 1:
        for key in ("image", "image_size", "nuclei", "mpp", "mpp_source"):
            info.pop(key)
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def _annotations(result: NucleiResult, image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    """The annotations of one image, numbered from `first_id`."""
    width, height = (int(side) for side in result.image_size)
    columns = {name: result.table[name].tolist() for name in (*ANNOTATED, *BOX)}
    boxes = zip(*(columns[name] for name in BOX), strict=True)
    for row, box in enumerate(boxes):
        nucleus = {name: columns[name][row] for name in ANNOTATED}
        mask = result.instance_map[box[1] : box[3], box[0] : box[2]] == nucleus["id"]
        annotation = {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": nucleus["type"] or 1,
            "segmentation": {
                "size": [height, width],
                "counts": compress_run_lengths(mask_run_lengths(mask, box, (width, height))),
            },
            "area": nucleus["area_px"],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "iscrowd": 0,
            **({"score": round(nucleus["score"], 6)} if math.isfinite(nucleus["score"]) else {}),
            "instance_id": nucleus["id"],
        }
        if math.isfinite(nucleus["type_probability"]):
            annotation["type_probability"] = round(nucleus["type_probability"], 6)
        yield annotation


def write_coco(results: NucleiResult | Sequence[NucleiResult], path: str | os.PathLike[str]) -> None:
    """Writes the nuclei of one image or of several as a COCO JSON file (see [`coco_record`]).

    Args:
        results: one result, or several from the same checkpoint.
        path: the file; an existing one is replaced.

    Raises:
        ValueError: the results know different types.
        OSError: the file cannot be written.
    """
    write_json(path, coco_record([results] if isinstance(results, NucleiResult) else list(results)), indent=None)
