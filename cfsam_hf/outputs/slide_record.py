"""The provenance record of a slide: the members of a tile's record, and those that only a slide has."""

import math
from collections.abc import Mapping
from typing import Any

from ..files.own_results import SOFTWARE
from ..model.result import complete_styles


def slide_record(
    *,
    image: str,
    image_size: tuple[int, int],
    nuclei: int,
    mpp: tuple[float, float] | None,
    mpp_source: str | None = None,
    type_names: Mapping[int, str] | None = None,
    type_colors: Mapping[int, tuple[int, int, int]] | None = None,
    checkpoint: str = "",
    version: str = "",
    tissue_area_um2: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The JSON-ready record that every output of a slide carries.

    Args:
        image: name of the slide.
        image_size: (width, height) of level 0 in pixels.
        nuclei: number of nuclei.
        mpp: width and height of a pixel of level 0 in micrometres; None if unknown. The record's `mpp` is the side of
            a square pixel of the same area.
        mpp_source: where the pixel size comes from.
        type_names, type_colors: names and RGB colours of the types 1..T by id; empty for a model without types.
        checkpoint, version: what found the nuclei.
        tissue_area_um2: area in which nuclei were sought, None if unknown.
        more: further members, JSON-ready.
    """
    styles = complete_styles(type_names or {}, type_colors)
    return {
        "software": SOFTWARE,
        "version": version,
        "checkpoint": checkpoint,
        "mpp": None if mpp is None else math.sqrt(mpp[0] * mpp[1]),
        "mpp_x": None if mpp is None else float(mpp[0]),
        "mpp_y": None if mpp is None else float(mpp[1]),
        "mpp_source": mpp_source,
        "image": image,
        "image_size": [int(side) for side in image_size],
        "nuclei": int(nuclei),
        "tissue_area_mm2": None if tissue_area_um2 is None else tissue_area_um2 / 1e6,
        "types": [{"id": s.type_id, "name": s.name, "color": list(s.color)} for s in styles],
        **more,
    }
