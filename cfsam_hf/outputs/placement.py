"""Where a tile lies in its slide, and a tile's nuclei in the slide's coordinates."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..model.result import TABLE_COLUMNS, NucleiResult

LARGEST_OFFSET = 2.0**31
"""Pixels. No slide is larger."""

LARGEST_DOWNSAMPLE = 4096.0


@dataclass(frozen=True)
class Placement:
    """Where a tile lies in its slide.

    Attributes:
        x, y: the tile's top left corner in the slide's pixels (level 0), x to the right and y down.
        downsample: pixels of the slide per pixel of the tile.

    Raises:
        ValueError: a number is not finite, or out of range.
    """

    x: float
    y: float
    downsample: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if not abs(value) < LARGEST_OFFSET:  # also false for NaN
                raise ValueError(f"{name} of a tile must be a number of pixels, got {value!r}")
        if not 0 < self.downsample <= LARGEST_DOWNSAMPLE:
            raise ValueError(
                f"the downsample of a tile must lie between 0 and {LARGEST_DOWNSAMPLE:g}, got {self.downsample!r}"
            )

    def to_dict(self) -> dict[str, float]:
        """The JSON-able record."""
        return dataclasses.asdict(self)


def place_result(result: NucleiResult, placement: Placement) -> NucleiResult:
    """The nuclei of a tile with table and contours in the slide's pixels; the label map stays that of the tile.

    Boxes and areas in pixels are whole numbers: boxes are rounded outwards and areas to the nearest number, which is
    exact without downsampling. Areas in um2 do not change. `provenance` of the new result states the placement.

    Args:
        result: the nuclei of the tile, in its pixels.
        placement: where the tile lies.
    """
    corner, scale = np.array([placement.x, placement.y]), placement.downsample
    table = result.table.copy()
    for axis, start in enumerate(corner):
        name = "xy"[axis]
        table[name] = start + scale * table[name]
        for column, rounded in ((f"bbox_{name}0", np.floor), (f"bbox_{name}1", np.ceil)):
            table[column] = rounded(start + scale * table[column])
    table["area_px"] = np.rint(scale**2 * table["area_px"])
    placed = dataclasses.replace(result, table=table.astype(TABLE_COLUMNS), placement=placement.to_dict())
    shift = _whole(corner, scale)
    placed.contours = [
        [ring * int(scale) + shift if shift is not None else ring * scale + corner for ring in rings]
        for rings in result.contours
    ]
    return placed


def _whole(corner: np.ndarray, scale: float) -> np.ndarray | None:
    """The corner as integers if all coordinates stay whole numbers, else None."""
    return corner.astype(np.int64) if all(float(value).is_integer() for value in (*corner, scale)) else None
