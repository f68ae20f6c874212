"""Reads the JSON files in which HoVer-Net, CellViT and TIAToolbox save nuclei: one contour for each, and its type."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .geojson_files import GeoFeature, OutlineFile, class_name, encloses, read_ring

NUCLEI = ("nuc", "cells")
"""HoVer-Net's member holds the nuclei by their ids, CellViT's their list; TIAToolbox writes the former's content."""

CONTOURS = ("contour", "contours")
NO_TYPE = (None, 0, "0")
"""In all three tools, type 0 is the background: the nucleus was not given a type."""


def is_hovernet(content: Any) -> bool:
    """Whether the content of a JSON file is that of one of these tools."""
    nuclei = _nuclei(content)
    first = next(iter(nuclei), None) if nuclei is not None else None
    if first is None:
        return isinstance(content, dict) and isinstance(content.get("nuc"), dict)
    return isinstance(first[1], dict) and any(name in first[1] for name in CONTOURS)


def parse_hovernet(content: Any, path: Path) -> OutlineFile:
    """Reads the content of a file; `path` names it in errors.

    The class is the name that CellViT's `type_map` gives to the type, else the number of the type.

    Raises:
        ValueError: a nucleus cannot be read; the message names it.
    """
    found = OutlineFile()
    without_area = 0
    names = content.get("type_map")
    names = names if isinstance(names, dict) else {}
    for place, nucleus in _nuclei(content) or ():
        try:
            if not isinstance(nucleus, dict):
                raise ValueError("a nucleus is an object with a contour")
            ring = read_ring(next((nucleus[name] for name in CONTOURS if name in nucleus), None))
            kind = nucleus.get("type")
            name = None if kind in NO_TYPE else class_name(names.get(str(kind), kind))
        except ValueError as error:
            raise ValueError(f"{path}: {place} cannot be used ({error})") from error
        if len(ring) and encloses(ring):
            found.features.append(GeoFeature(((ring,),), name, "detection", place))
        else:
            without_area += 1
    if without_area:
        found.notes.append(f"{without_area} nucle{'us' if without_area == 1 else 'i'} without area left out")
    return found


def _nuclei(content: Any) -> Iterator[tuple[str, Any]] | None:
    """Each nucleus with its place in the file; None if the content does not look like such a file."""
    if not isinstance(content, dict):
        return None
    nuclei = next((content[name] for name in NUCLEI if isinstance(content.get(name), dict | list)), content)
    if isinstance(nuclei, list):
        return ((f"cell {number}", nucleus) for number, nucleus in enumerate(nuclei))
    return ((f"nucleus {key!r:.40}", nucleus) for key, nucleus in nuclei.items())
