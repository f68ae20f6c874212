"""The nuclei of one image: as decoding finds them, and as the result with its table and contours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .configuration_cfsam import default_type_color, rgb
from .contours import nucleus_contours

# The version of the package, which ships with its code: `setup.cfg` and the top level read it from here.
__version__ = "0.1.0"

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


UNTYPED_NAME = "nucleus"
UNTYPED_COLOR = rgb(default_type_color(1))
"""Name and colour of the nuclei of a model without types, whose type id is 0."""


@dataclass
class DecodedNuclei:
    """
    N nuclei of one image in arrays; row i of each describes the nucleus with id i + 1.

    Attributes:
        instance_map (`np.ndarray` of shape (H, W), int32): 0 background, ids 1..N; each id is one 4-connected region.
            Ids follow the raster order of the nuclei's first pixels.
        type_ids (`np.ndarray` of shape (N,), int64): 1..T; 0 if the maps carry no types.
        type_probabilities (`np.ndarray` of shape (N,), float64): share of the chosen type in the summed probabilities
            of all types (background left out); NaN without types.
        scores (`np.ndarray` of shape (N,), float64): in [0, 1], computed from the measures by `ScoreWeights`.
        boxes (`np.ndarray` of shape (N, 4), int64): half-open x0, y0, x1, y1 in pixels.
        centroids (`np.ndarray` of shape (N, 2), float64): x and y; the centre of pixel (column i, row j) is
            (i + .5, j + .5).
        areas (`np.ndarray` of shape (N,), int64): pixels.
        measures (`np.ndarray` of shape (N, 5), float64, or `None`): the columns of `scores.MEASURES`, in the model's
            pixels; None for nuclei that were not decoded from maps.
        probabilities (`np.ndarray` of shape (N, T), float32, or `None`): share of each type 1..T in the summed
            probabilities of all types; None without types.
    """

    instance_map: np.ndarray
    type_ids: np.ndarray
    type_probabilities: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    centroids: np.ndarray
    areas: np.ndarray
    measures: np.ndarray | None = None
    probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.areas)

    def take(self, rows: np.ndarray, instance_map: np.ndarray) -> DecodedNuclei:
        """
        Some of the nuclei, or all of them in another order.

        Args:
            rows (`np.ndarray`): indices, or a mask (N,), of the nuclei to take.
            instance_map (`np.ndarray` of shape (H, W)): the label map that numbers these nuclei 1, 2, ...
        """
        columns = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "instance_map"}
        taken: dict[str, Any] = {name: None if values is None else values[rows] for name, values in columns.items()}
        return DecodedNuclei(instance_map, **taken)

    def select(self, kept: np.ndarray) -> DecodedNuclei:
        """The nuclei for which `kept` (N,) is true, renumbered 1, 2, ... in their order."""
        return self if kept.all() else self.take(kept, consecutive_ids(kept)[self.instance_map])


def consecutive_ids(kept: np.ndarray) -> np.ndarray:
    """
    New ids (N + 1,) int32, by old id, of nuclei of which only some are kept: 0 for the others and for background.

    >>> consecutive_ids(np.array([True, False, True]))
    array([0, 1, 0, 2], dtype=int32)
    """
    numbers = np.zeros(len(kept) + 1, dtype=np.int32)
    numbers[1:][kept] = np.arange(1, kept.sum() + 1)
    return numbers


@dataclass(frozen=True)
class TypeStyle:
    """Appearance of a nucleus type: `type_id` (0 for a model without types), `name`, `color` (RGB, 0 to 255)."""

    type_id: int
    name: str
    color: tuple[int, int, int]


@dataclass
class NucleiResult:
    """
    The nuclei of one image, in the pixels of the image as it was given.

    Attributes:
        instance_map (`np.ndarray` of shape (H, W), int32): 0 background, ids 1..N. Every nucleus is one 4-connected
            component.
        table (`pandas.DataFrame` with N rows): row i belongs to id i + 1. Columns, in this order: `id`, `type` (1..T,
            0 for a model without types), `type_name`, `type_probability` (NaN without types), `score` (probability
            that the nucleus overlaps a true one with IoU > .5), `x`, `y` (centroid in pixels; the centre of the first
            pixel is (.5, .5)), `bbox_x0`, `bbox_y0`, `bbox_x1`, `bbox_y1` (half-open, pixels), `area_px`, `area_um2`
            (NaN if `mpp` is unknown). `TABLE_COLUMNS` holds the dtypes; an empty table has them too.
        mpp (`float` or `None`): micrometres per pixel of the image, None if unknown.
        image_size (`tuple[int, int]`): (W, H) in pixels.
        type_names (`dict[int, str]`): names of the types 1..T; empty for a model without types.
        type_colors (`dict[int, tuple[int, int, int]]`): RGB colour, 0..255, of each type; of 0 for a model
            without types.
        image_name (`str` or `None`): file name of the image, if it came from a file.
        checkpoint (`str`): name of the checkpoint that found the nuclei.
        version (`str`): version of this package that found them.
        mpp_source (`str` or `None`): where `mpp` comes from: "given", or the statement in the image's file, such as
            "Aperio MPP".
        probabilities (`np.ndarray` of shape (N, T), float32, or `None`): row i of the table's probabilities of the
            types 1..T, which add up to 1; None for a model without types.
        placement (`dict[str, float]` or `None`): where a tile lies in its slide (`x`, `y`, `downsample`), if table and
            contours are in the slide's pixels.
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
    mpp_source: str | None = None
    probabilities: np.ndarray | None = None
    placement: dict[str, float] | None = None

    @classmethod
    def from_decoded(
        cls,
        decoded: DecodedNuclei,
        *,
        mpp: float | None = None,
        mpp_source: str | None = None,
        type_names: Mapping[int, str] | None = None,
        type_colors: Mapping[int, tuple[int, int, int]] | None = None,
        image_name: str | None = None,
        checkpoint: str = "",
        version: str = "",
    ) -> NucleiResult:
        """
        Build the result from decoded nuclei.

        Args:
            decoded (`DecodedNuclei`): the nuclei, in the image's pixels.
            mpp (`float`, *optional*): micrometres per pixel of the image.
            mpp_source (`str`, *optional*): as in the class.
            type_names (`Mapping[int, str]`, *optional*): names of the types; default `type <id>`.
            type_colors (`Mapping[int, tuple]`, *optional*): RGB colours of the types; defaults fill the gaps.
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
            mpp_source=mpp_source,
            image_size=(int(width), int(height)),
            type_names=names,
            type_colors=complete_colors(names, type_colors),
            image_name=image_name,
            checkpoint=checkpoint,
            version=version,
            probabilities=decoded.probabilities,
        )

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def contours(self) -> list[list[np.ndarray]]:
        """
        Outlines along pixel edges, computed on first use: row i of the table has a list of closed rings, the exterior
        first and then the holes, each an int64 array (K, 2) of (x, y) whose first point is not repeated.
        """
        boxes = self.table[["bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1"]].to_numpy(np.int64)
        return nucleus_contours(self.instance_map, boxes)

    def __repr__(self) -> str:
        names = self.type_names or {0: UNTYPED_NAME}
        counts = self.table["type"].value_counts()
        per_type = ", ".join(f"{name} {int(counts.get(type_id, 0))}" for type_id, name in names.items())
        mpp = "unknown" if self.mpp is None else f"{self.mpp:g}"
        return f"NucleiResult({len(self)} nuclei: {per_type}; {self.image_size[0]}x{self.image_size[1]} px, mpp {mpp})"


def complete_styles(
    type_names: Mapping[int, str], type_colors: Mapping[int, tuple[int, int, int]] | None = None
) -> list[TypeStyle]:
    """The styles of all types in the order of their ids.

    Args:
        type_names: by id; if empty, the only style is that of id 0, named `nucleus`.
        type_colors: RGB by id; a type without one gets the default colour of its id.

    Example:
        >>> complete_styles({1: "tumour", 2: "stroma"}, {2: (9, 9, 9)})[1]
        TypeStyle(type_id=2, name='stroma', color=(9, 9, 9))
    """
    colors = complete_colors(type_names, type_colors)
    names = type_names or {0: UNTYPED_NAME}
    return [TypeStyle(int(i), str(name), colors[i]) for i, name in sorted(names.items())]


def complete_colors(
    type_names: Mapping[int, str], type_colors: Mapping[int, tuple[int, int, int]] | None = None
) -> dict[int, tuple[int, int, int]]:
    """RGB colour of every type in `type_names`, from `type_colors` if it has one; of id 0 if there are no types."""
    given = dict(type_colors or {})
    if not type_names:
        return {0: _as_rgb(given.get(0, UNTYPED_COLOR))}
    return {type_id: _as_rgb(given.get(type_id, rgb(default_type_color(type_id)))) for type_id in type_names}


def type_styles(result: NucleiResult) -> list[TypeStyle]:
    """
    The types that the result's model knows, in the order of their ids, whether or not a nucleus has them. A model
    without types gives one style with the id 0 and the name `nucleus`.
    """
    return complete_styles(result.type_names, result.type_colors)


def provenance(result: NucleiResult) -> dict[str, Any]:
    """
    The JSON-ready record that every output file carries: software, version, checkpoint, mpp and where it comes from,
    image name, image size (W, H), number of nuclei, types and their colours. `mpp` is None if the pixel size is
    unknown; the record never holds a NaN.
    """
    return {
        "software": "cfsam_hf",
        "version": result.version,
        "checkpoint": result.checkpoint,
        "mpp": None if result.mpp is None else float(result.mpp),
        "mpp_source": result.mpp_source,
        "image": result.image_name,
        "image_size": [int(side) for side in result.image_size],
        "nuclei": len(result),
        "types": [{"id": s.type_id, "name": s.name, "color": list(s.color)} for s in type_styles(result)],
        **({} if result.placement is None else {"placement": dict(result.placement)}),
    }


def record_styles(record: Mapping[str, Any]) -> list[TypeStyle]:
    """
    The types of a provenance record, as `type_styles` gives those of a result.
    """
    return [TypeStyle(t["id"], t["name"], _as_rgb(t["color"])) for t in record["types"]]


def _nuclei_table(
    decoded: DecodedNuclei, type_ids: np.ndarray, names: Mapping[int, str], mpp: float | None
) -> pd.DataFrame:
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


def _as_rgb(color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in color)
    return red, green, blue
