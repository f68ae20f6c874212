"""What differs between laboratories, scanners and files, in fixed strengths: tiles on which a system may fail."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.ndimage import find_objects

from ..data import UNKNOWN_TYPE, Tile, TileRecord
from ..data.crops.augmentation import add_noise, blur_focus, change_light, compress_jpeg, jitter_stains
from ..data.true_nuclei import annotated_nuclei
from ..model.resampling import resample_image, resample_nuclei
from ..model.result import DecodedNuclei
from .scoring import DEFAULT_MPP
from .systems import System

PLAIN = "plain"
"""Kind and name of the tiles as they are."""

ALL_STAINS = ("haematoxylin", "eosin")


@dataclass(frozen=True)
class Condition:
    """One way to change a tile.

    Attributes:
        name: such as `blur, sigma 1.5 px`.
        kind: what it belongs to, such as `blur`.
        change: a tile to the changed one; the truth changes along where pixels move.
        mpp_given: whether the system is told the pixel size.
    """

    name: str
    kind: str
    change: Callable[[Tile], Tile]
    mpp_given: bool = True

    def records(self, records: Sequence[TileRecord]) -> list[TileRecord]:
        """The records of the changed tiles, which change as they are loaded."""
        return [replace(record, decode=lambda _, record=record: self.change(record.load())) for record in records]

    def system(self, system: System) -> System:
        """The system as this condition has it: with or without the pixel size."""
        if self.mpp_given:
            return system
        return replace(system, predict=lambda tile: system.predict(replace(tile, mpp=None)))


def shift_conditions(seed: int = 0) -> list[Condition]:
    """All conditions, the plain tiles first.

    Strengths lie within what the augmentation preset `standard` shows a model in training, and beyond it. Blur and
    noise are in pixels and grey values of the tile.

    Args:
        seed: of the noise, which is the same for a tile whatever else is run.
    """
    conditions = [Condition(PLAIN, PLAIN, lambda tile: tile)]
    for stains in (("haematoxylin",), ("eosin",), ALL_STAINS):
        conditions += [_stain_condition(dict.fromkeys(stains, gain)) for gain in (0.6, 0.77, 1.3, 1.7)]
    conditions += [
        _stain_condition({"haematoxylin": 1.3, "eosin": 0.77}),
        _stain_condition({"haematoxylin": 0.77, "eosin": 1.3}),
    ]
    for sigma in (0.7, 1.0, 1.5, 2.0):
        conditions.append(
            _image_condition(f"blur, sigma {sigma:g} px", "blur", lambda i, _, sigma=sigma: blur_focus(i, sigma))
        )
    for quality in (70, 40, 20):
        conditions.append(
            _image_condition(f"JPEG, quality {quality}", "jpeg", lambda i, _, q=quality: compress_jpeg(i, q))
        )
    for brightness in (-40, -20, 20, 40):
        conditions.append(
            _image_condition(
                f"brightness {brightness:+d} grey values", "light", lambda i, _, b=brightness: change_light(i, 1.0, b)
            )
        )
    for contrast in (0.6, 0.8, 1.2, 1.5):
        conditions.append(
            _image_condition(f"contrast x {contrast:g}", "light", lambda i, _, c=contrast: change_light(i, c, 0.0))
        )
    for sigma in (5, 10, 20):
        conditions.append(
            _image_condition(
                f"noise, sigma {sigma} grey values",
                "noise",
                lambda image, tile, sigma=sigma: add_noise(image, sigma, _generator(seed, tile)),
            )
        )
    conditions.append(Condition("as scanned, mpp not given", "magnification", lambda tile: tile, mpp_given=False))
    for power, mpp in ((20, 0.5), (10, 1.0)):
        for given in (True, False):
            name = f"{power}x ({mpp:g} um per pixel), mpp {'given' if given else 'not given'}"
            conditions.append(Condition(name, "magnification", lambda tile, mpp=mpp: shrink_tile(tile, mpp), given))
    return conditions


def choose_conditions(wanted: Sequence[str], seed: int = 0) -> list[Condition]:
    """The conditions of the wanted kinds or names in their usual order, the plain tiles always among them.

    Args:
        wanted: kinds such as `blur`, or names; all where empty.
        seed: as in [`shift_conditions`].

    Raises:
        ValueError: a name that is neither, telling which there are.
    """
    conditions = shift_conditions(seed)
    kinds = list(dict.fromkeys(condition.kind for condition in conditions))
    for name in wanted:
        if name not in kinds and name not in {condition.name for condition in conditions}:
            raise ValueError(
                f"there is no condition {name!r}; give kinds ({', '.join(kinds)}) or names as the table has them"
            )
    return [c for c in conditions if not wanted or c.kind == PLAIN or c.kind in wanted or c.name in wanted]


def shrink_tile(tile: Tile, mpp: float) -> Tile:
    """The tile as if scanned at a coarser pixel size: area means of the image, and the truth brought to its pixels.

    Nuclei are brought along as results are ([`resample_nuclei`]), so that none gets lost and touching ones stay apart;
    of a nucleus that is torn at the tile's border the largest piece stays.

    Args:
        tile: a tile; .25 um per pixel are taken where its pixel size is not known.
        mpp: micrometres per pixel to bring it to.

    Raises:
        ValueError: the tile is coarser than that.
    """
    scale = (tile.mpp or DEFAULT_MPP) / mpp
    if scale > 1:
        raise ValueError(
            f"tile {tile.id}: {tile.mpp:g} um per pixel is coarser than the {mpp:g} it is to be brought to; leave "
            "that condition out"
        )
    height, width = (max(1, round(side * scale)) for side in tile.instance_map.shape)
    # All of them, those that lie where nobody annotated too: pixels there stay taken.
    nuclei = annotated_nuclei(replace(tile, annotated=None))
    found = resample_nuclei(_as_decoded(tile, nuclei.ids, nuclei.types), height, width)
    type_map = None
    if tile.type_map is not None:
        types = np.where(found.type_ids > 0, found.type_ids, UNKNOWN_TYPE)
        type_map = np.concatenate([[0], types])[found.instance_map].astype(np.int16)
    annotated = tile.annotated
    if annotated is not None:
        share = cv2.resize(annotated.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        annotated = share >= 0.5
    return replace(
        tile,
        image=resample_image(tile.image, height, width),
        instance_map=found.instance_map.astype(np.int32),
        type_map=type_map,
        annotated=annotated,
        mpp=mpp,
    )


def _as_decoded(tile: Tile, ids: np.ndarray, types: np.ndarray) -> DecodedNuclei:
    """The true nuclei in the form of found ones, each a whole whatever its pieces; centroids are not needed."""
    compact = np.where(tile.instance_map > 0, np.searchsorted(ids, tile.instance_map) + 1, 0).astype(np.int32)
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in find_objects(compact)]
    count = len(ids)
    return DecodedNuclei(
        instance_map=compact,
        type_ids=types,
        type_probabilities=np.full(count, np.nan),
        scores=np.ones(count),
        boxes=np.array(boxes, dtype=np.int64).reshape(-1, 4),
        centroids=np.full((count, 2), np.nan),
        areas=np.bincount(compact.ravel(), minlength=count + 1)[1:],
    )


def _stain_condition(gains: dict[str, float]) -> Condition:
    factors = np.array([gains.get(stain, 1.0) for stain in ALL_STAINS] + [1.0])
    alike = len(gains) == len(ALL_STAINS) and len(set(gains.values())) == 1
    parts = [f"{' and '.join(gains)} x {factors[0]:g}"] if alike else [f"{s} x {gain:g}" for s, gain in gains.items()]
    return _image_condition(", ".join(parts), "stain", lambda image, _: jitter_stains(image, factors, np.zeros(3)))


def _image_condition(name: str, kind: str, change: Callable[[np.ndarray, Tile], np.ndarray]) -> Condition:
    return Condition(name, kind, lambda tile: replace(tile, image=change(tile.image, tile)))


def _generator(seed: int, tile: Tile) -> np.random.Generator:
    """Of the noise of a tile: by its name, so that it does not depend on which tiles come before."""
    return np.random.default_rng((seed, zlib.crc32(tile.id.encode())))
