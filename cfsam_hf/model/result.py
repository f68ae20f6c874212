"""The nuclei of one image: the label map, the table, and the contours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .contours import nucleus_contours
from .nucleus_types import UNTYPED_NAME, TypeStyle, complete_colors, complete_styles

# Column name and dtype of `NucleiResult.table`, in order. "str" is pandas' own string type where it has one (pandas 3)
# and object before.
TABLE_COLUMNS: dict[str, str] = {
    "id": "int64",
    "type": "int64",
    "type_name": "str",
    "type_probability": "float64",
    "score": "float64",
    "x": "float64",
    "y": "float64",
    "bbox_x0": "int64",
    "bbox_y0": "int64",
    "bbox_x1": "int64",
    "bbox_y1": "int64",
    "area_px": "int64",
    "area_um2": "float64",
}


@dataclass
class NucleiResult:
    """
    The nuclei of one image, in the pixels of the image as it was given.

    Attributes:
        instance_map (`np.ndarray` of shape (H, W), int32): 0 background, ids 1..N. Every nucleus is one 4-connected
            component.
        table (`pandas.DataFrame` with N rows): row i belongs to id i + 1. Columns, in this order: `id`, `type` (1..T,
            0 for a model without types), `type_name`, `type_probability` (NaN without types), `score` (probability
            that the nucleus is real: overlaps a true one with IoU > .5), `x`, `y` (centroid in pixels; the centre of
            the first pixel is (.5, .5)), `bbox_x0`, `bbox_y0`, `bbox_x1`, `bbox_y1` (half-open, pixels), `area_px`,
            `area_um2` (NaN where `mpp` is not known). `TABLE_COLUMNS` holds the dtypes; an empty table has them too.
        mpp (`float` or `None`): micrometres per pixel of the image, None where it was not known.
        image_size (`tuple[int, int]`): (W, H) in pixels.
        type_names (`dict[int, str]`): names of the types 1..T; empty for a model without types.
        type_colors (`dict[int, tuple[int, int, int]]`): RGB colour, 0..255, of each type; of 0 for a model
            without types.
        image_name (`str` or `None`): file name of the image, where it came from a file.
        checkpoint (`str`): name of the checkpoint that found the nuclei.
        version (`str`): version of this package at the time.
    """

    instance_map: np.ndarray
    table: pd.DataFrame
    mpp: float | None
    image_size: tuple[int, int]
    type_names: dict[int, str] = field(default_factory=dict)
    type_colors: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    image_name: str | None = None
    checkpoint: str = ""
    version: str = ""

    @classmethod
    def from_decoded(
        cls,
        decoded: Any,
        *,
        mpp: float | None = None,
        type_names: Mapping[int, str] | None = None,
        type_colors: Mapping[int, tuple[int, int, int]] | None = None,
        image_name: str | None = None,
        checkpoint: str = "",
        version: str = "",
    ) -> NucleiResult:
        """
        Build the result from decoded nuclei.

        Args:
            decoded (`DecodedNuclei`): what `post_processing_cfsam.decode_nuclei` returns, in the image's pixels.
            mpp (`float`, *optional*): micrometres per pixel of the image.
            type_names (`Mapping[int, str]`, *optional*): names of the types; a type without one is called `type <id>`.
            type_colors (`Mapping[int, tuple]`, *optional*): RGB colours of the types; missing ones are filled in.
            image_name, checkpoint, version: as in the class.
        """
        type_ids = np.asarray(decoded.type_ids, dtype=np.int64)
        known = set(type_names or {}) | (set(type_ids.tolist()) - {0})
        names = {int(type_id): (type_names or {}).get(type_id, f"type {type_id}") for type_id in sorted(known)}
        height, width = decoded.instance_map.shape
        return cls(
            instance_map=np.asarray(decoded.instance_map, dtype=np.int32),
            table=_nuclei_table(decoded, type_ids, names, mpp),
            mpp=None if mpp is None else float(mpp),
            image_size=(int(width), int(height)),
            type_names=names,
            type_colors=complete_colors(names, type_colors),
            image_name=image_name,
            checkpoint=checkpoint,
            version=version,
        )

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def contours(self) -> list[list[np.ndarray]]:
        """
        Outlines along pixel edges, computed on first use: for row i of the table a list of closed rings, the exterior
        first and then the holes, each an int64 array (K, 2) of (x, y) without the first point repeated.
        """
        boxes = self.table[["bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1"]].to_numpy(np.int64)
        return nucleus_contours(self.instance_map, boxes)

    def __repr__(self) -> str:
        names = self.type_names or {0: UNTYPED_NAME}
        counts = self.table["type"].value_counts()
        per_type = ", ".join(f"{name} {int(counts.get(type_id, 0))}" for type_id, name in names.items())
        mpp = "unknown" if self.mpp is None else f"{self.mpp:g}"
        return f"NucleiResult({len(self)} nuclei: {per_type}; {self.image_size[0]}x{self.image_size[1]} px, mpp {mpp})"


def type_styles(result: NucleiResult) -> list[TypeStyle]:
    """
    The types that the result's model knows, in the order of their ids, whether or not a nucleus has them. A model
    without types gives one style with the id 0 and the name `nucleus`.
    """
    return complete_styles(result.type_names, result.type_colors)


def provenance(result: NucleiResult) -> dict[str, Any]:
    """
    The JSON-ready record that every output file carries: software, version, checkpoint, mpp, image name, image size
    (W, H), number of nuclei, types and their colours. `mpp` is None where the pixel size is not known; the record
    never holds a NaN.
    """
    return {
        "software": "cfsam_hf",
        "version": result.version,
        "checkpoint": result.checkpoint,
        "mpp": None if result.mpp is None else float(result.mpp),
        "image": result.image_name,
        "image_size": [int(side) for side in result.image_size],
        "nuclei": len(result),
        "types": [{"id": s.type_id, "name": s.name, "color": list(s.color)} for s in type_styles(result)],
    }


def _nuclei_table(decoded: Any, type_ids: np.ndarray, names: Mapping[int, str], mpp: float | None) -> pd.DataFrame:
    boxes = np.asarray(decoded.boxes, dtype=np.int64).reshape(-1, 4)
    centroids = np.asarray(decoded.centroids, dtype=np.float64).reshape(-1, 2)
    areas = np.asarray(decoded.areas, dtype=np.int64)
    columns = {
        "id": np.arange(1, len(areas) + 1),
        "type": type_ids,
        "type_name": [names.get(type_id, UNTYPED_NAME) for type_id in type_ids.tolist()],
        "type_probability": decoded.type_probabilities,
        "score": decoded.scores,
        "x": centroids[:, 0],
        "y": centroids[:, 1],
        "bbox_x0": boxes[:, 0],
        "bbox_y0": boxes[:, 1],
        "bbox_x1": boxes[:, 2],
        "bbox_y1": boxes[:, 3],
        "area_px": areas,
        "area_um2": areas * (np.nan if mpp is None else float(mpp) ** 2),
    }
    return pd.DataFrame({name: pd.Series(columns[name], dtype=dtype) for name, dtype in TABLE_COLUMNS.items()})
