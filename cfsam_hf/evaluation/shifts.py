"""Changes of stain, focus, compression, light, noise and magnification, to find where a system fails."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from scipy.ndimage import find_objects

from ..data import UNKNOWN_TYPE, Tile, TileRecord
from ..data.crops.augmentation import add_noise, blur_focus, change_light, compress_jpeg, jitter_stains
from ..data.true_nuclei import all_nuclei
from ..model.pixel_size import resample_image, resample_instances
from .scoring import DEFAULT_MPP
from .systems import System

PLAIN = "plain"
"""Kind and name of the condition that changes nothing."""

ALL_STAINS = ("haematoxylin", "eosin")


@dataclass(frozen=True)
class Condition:
    """One way to change a tile.

    Attributes:
        name: such as `blur, sigma 1.5 px`.
        kind: its group, such as `blur`.
        change: maps a tile to the changed tile, truth included where pixels move.
        mpp_given: whether the system gets the pixel size.
    """

    name: str
    kind: str
    change: Callable[[Tile], Tile]
    mpp_given: bool = True

    def records(self, records: Sequence[TileRecord]) -> list[TileRecord]:
        """Records whose tiles are changed when they are loaded."""
        return [replace(record, decode=partial(self._changed, record)) for record in records]

    def _changed(self, record: TileRecord, _: TileRecord) -> Tile:
        return self.change(record.load())

    def system(self, system: System) -> System:
        """The system, with or without the pixel size."""
        if self.mpp_given:
            return system
        return replace(system, predict=lambda tile: system.predict(replace(tile, mpp=None)))


def shift_conditions(seed: int = 0) -> list[Condition]:
    """All conditions, the plain tiles first.

    Some strengths lie within the range of the augmentation preset `standard`, others beyond it. Blur is in pixels of
    the tile, noise in its grey values.

    Args:
        seed: of the noise. A tile gets the same noise whichever conditions and tiles are run.
    """
    conditions = [Condition(PLAIN, PLAIN, lambda tile: tile)]
    for stains in (("haematoxylin",), ("eosin",), ALL_STAINS):
        conditions += [_stain_condition(dict.fromkeys(stains, gain)) for gain in (0.6, 0.77, 1.3, 1.7)]
    conditions += [
        _stain_condition({"haematoxylin": 1.3, "eosin": 0.77}),
        _stain_condition({"haematoxylin": 0.77, "eosin": 1.3}),
    ]
    for blur in (0.7, 1.0, 1.5, 2.0):
        conditions.append(_image_condition(f"blur, sigma {blur:g} px", "blur", partial(blur_focus, sigma=blur)))
    for quality in (70, 40, 20):
        conditions.append(
            _image_condition(f"JPEG, quality {quality}", "jpeg", partial(compress_jpeg, quality=quality))
        )
    for brightness in (-40, -20, 20, 40):
        change = partial(change_light, contrast=1.0, brightness=brightness)
        conditions.append(_image_condition(f"brightness {brightness:+d} grey values", "light", change))
    for contrast in (0.6, 0.8, 1.2, 1.5):
        change = partial(change_light, contrast=contrast, brightness=0.0)
        conditions.append(_image_condition(f"contrast x {contrast:g}", "light", change))
    for noise in (5, 10, 20):
        name = f"noise, sigma {noise} grey values"
        conditions.append(Condition(name, "noise", partial(_noisy, sigma=noise, seed=seed)))
    conditions.append(Condition("as scanned, mpp not given", "magnification", lambda tile: tile, mpp_given=False))
    for power, mpp in ((20, 0.5), (10, 1.0)):
        for given in (True, False):
            name = f"{power}x ({mpp:g} um per pixel), mpp {'given' if given else 'not given'}"
            conditions.append(Condition(name, "magnification", partial(shrink_tile, mpp=mpp), given))
    return conditions


def choose_conditions(wanted: Sequence[str], seed: int = 0) -> list[Condition]:
    """The conditions of some kinds or names in the usual order, always with the plain tiles.

    Args:
        wanted: kinds such as `blur`, or names; all if empty.
        seed: as in [`shift_conditions`].

    Raises:
        ValueError: a name is neither; the message lists the kinds.
    """
    conditions = shift_conditions(seed)
    kinds = list(dict.fromkeys(condition.kind for condition in conditions))
    for name in wanted:
        if name not in kinds and name not in {condition.name for condition in conditions}:
            raise ValueError(
                f"there is no condition {name!r}; give kinds ({', '.join(kinds)}) or names from the table"
            )
    return [c for c in conditions if not wanted or c.kind == PLAIN or c.kind in wanted or c.name in wanted]


def shrink_tile(tile: Tile, mpp: float) -> Tile:
    """The tile as if scanned at a coarser pixel size: area means of the image, and the truth in the same pixels.

    The truth is resampled as results are ([`cfsam_hf.model.pixel_size.resample_instances`]), so that nuclei that touch
    stay apart and small ones do not vanish. A nucleus in several pieces keeps the largest.

    Args:
        tile: a tile; an unknown pixel size is taken as .25 um per pixel.
        mpp: micrometres per pixel of the result.

    Raises:
        ValueError: the tile is coarser than that.
    """
    scale = (tile.mpp or DEFAULT_MPP) / mpp
    if scale > 1:
        raise ValueError(
            f"tile {tile.id}: {tile.mpp or DEFAULT_MPP:g} um per pixel is coarser than {mpp:g}; leave it out"
        )
    height, width = (max(1, round(side * scale)) for side in tile.instance_map.shape)
    if (height, width) == tile.instance_map.shape:
        return replace(tile, mpp=mpp)
    # Nuclei outside the annotated area too: their pixels stay taken.
    nuclei = all_nuclei(tile)
    compact = np.where(tile.instance_map > 0, np.searchsorted(nuclei.ids, tile.instance_map) + 1, 0).astype(np.int32)
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in find_objects(compact)]
    found = resample_instances(compact, np.array(boxes, dtype=np.int64).reshape(-1, 4), height, width)
    type_map = None
    if tile.type_map is not None:
        types = nuclei.types[found.kept]
        type_map = np.concatenate([[0], np.where(types > 0, types, UNKNOWN_TYPE)])[found.instance_map].astype(np.int16)
    annotated = tile.annotated
    if annotated is not None:
        share = cv2.resize(annotated.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        annotated = share >= 0.5
    return replace(
        tile,
        image=resample_image(tile.image, height, width),
        instance_map=found.instance_map,
        type_map=type_map,
        annotated=annotated,
        mpp=mpp,
    )


def _stain_condition(gains: dict[str, float]) -> Condition:
    factors = np.array([gains.get(stain, 1.0) for stain in ALL_STAINS] + [1.0])
    alike = len(gains) == len(ALL_STAINS) and len(set(gains.values())) == 1
    parts = [f"{' and '.join(gains)} x {factors[0]:g}"] if alike else [f"{s} x {gain:g}" for s, gain in gains.items()]
    return _image_condition(", ".join(parts), "stain", lambda image: jitter_stains(image, factors, np.zeros(3)))


def _image_condition(name: str, kind: str, change: Callable[[np.ndarray], np.ndarray]) -> Condition:
    return Condition(name, kind, lambda tile: replace(tile, image=change(tile.image)))


def _noisy(tile: Tile, sigma: float, seed: int) -> Tile:
    # Seeded with the tile's name, so that its noise does not depend on the tiles before it.
    generator = np.random.default_rng((seed, zlib.crc32(tile.id.encode())))
    return replace(tile, image=add_noise(tile.image, sigma, generator))
