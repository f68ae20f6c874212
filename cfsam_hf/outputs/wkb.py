"""Polygons as Well-Known Binary, the form in which GeoParquet stores them."""

import struct
from collections.abc import Sequence

import numpy as np

POLYGON = 3
# Byte order (1: little-endian), geometry type, number of rings.
HEADER = struct.Struct("<BII")
COUNT = struct.Struct("<I")


def encode_polygon(rings: Sequence[np.ndarray]) -> bytes:
    """Encodes a polygon as little-endian WKB.

    Args:
        rings: (K, 2) xy each, the exterior first and then the holes; the first point is not repeated.
    """
    parts = [HEADER.pack(1, POLYGON, len(rings))]
    for ring in rings:
        points = np.asarray(ring, dtype="<f8")
        parts += [COUNT.pack(len(points) + 1), points.tobytes(), points[:1].tobytes()]
    return b"".join(parts)


def decode_polygon(wkb: bytes) -> list[np.ndarray]:
    """The rings of a polygon, as [`encode_polygon`] takes them.

    Raises:
        ValueError: the bytes are no polygon in little-endian WKB, or are incomplete.
    """
    try:
        order, kind, count = HEADER.unpack_from(wkb)
        if (order, kind) != (1, POLYGON):
            raise ValueError(f"byte order {order} and geometry type {kind} are not those of a little-endian polygon")
        rings, position = [], HEADER.size
        for _ in range(count):
            [points] = COUNT.unpack_from(wkb, position)
            ring = np.frombuffer(wkb, "<f8", 2 * points, position + COUNT.size).reshape(-1, 2)
            rings.append(ring[:-1])
            position += COUNT.size + ring.nbytes
    except (struct.error, ValueError) as error:
        raise ValueError(f"{len(wkb)} bytes are not a polygon in well-known binary: {error}") from None
    return rings
