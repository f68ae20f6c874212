"""Digests of tiles, with which a resumed run detects that images or annotations have changed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..data import Tile

TileDigest = list[str]
"""Name of a tile, digest of its image, and digest of its annotation: strings, as JSON returns them."""


def image_digest(tile: Tile) -> str:
    """Digest of the pixels and their size; lossless recompression of the file does not change it."""
    return _digest(repr(tile.mpp), tile.image)


def label_digest(tile: Tile) -> str:
    """Digest of everything that annotators drew: nuclei, types with their names, and the annotated area."""
    return _digest(repr(dict(tile.type_names)), tile.instance_map, tile.type_map, tile.annotated)


def tile_digest(name: str, tile: Tile) -> TileDigest:
    """The digests of a tile under a name."""
    return [name, image_digest(tile), label_digest(tile)]


def changed_tile(before: Mapping[str, Sequence[TileDigest]], now: Mapping[str, Sequence[TileDigest]]) -> str | None:
    """The first difference between the tiles of two runs, as part of a sentence; `None` if they are the same.

    Args:
        before, now: the tiles in order, by what they are used for ("training", "validation").
    """
    for part in dict.fromkeys([*before, *now]):
        old, new = list(before.get(part, ())), list(now.get(part, ()))
        if old == new:
            continue
        of = f"{part} tile"
        for names, others, text in ((new, old, "is new"), (old, new, "is missing")):
            if only := _first_without(names, {name for name, *_ in others}):
                return f"the {of} {only} {text}"
        digests = {name: rest for name, *rest in old}
        for name, *rest in new:
            if rest[0] != digests[name][0]:
                return f"the image of the {of} {name} is different"
            if rest[1] != digests[name][1]:
                return f"the annotation of the {of} {name} is different"
        return f"the {of}s are in another order, or one is used a different number of times"
    return None


def _first_without(digests: Iterable[TileDigest], known: set[str]) -> str | None:
    return next((name for name, *_ in digests if name not in known), None)


def _digest(text: str, *arrays: np.ndarray | None) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for array in arrays:
        if array is None:
            digest.update(b"none")
        else:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
