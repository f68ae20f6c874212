"""Annotation files of Aperio ImageScope (XML), in which MoNuSeg and MoNuSAC are distributed."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files.regular_file import check_regular
from ..polygons import are_coordinates


@dataclass(frozen=True)
class AperioAnnotation:
    """One layer of an annotation file.

    Attributes:
        attributes: the names of its attributes (`Attributes/Attribute[@Name]`); MoNuSAC writes the class there.
        polygons: `(K, 2)` xy in pixels in the order of the file. Those with fewer than three vertices are slips of the
            annotators' mouse and draw nothing.
    """

    attributes: tuple[str, ...]
    polygons: tuple[np.ndarray, ...]


def read_aperio_xml(path: Path) -> tuple[list[AperioAnnotation], float | None]:
    """Reads an annotation file: `Annotations/Annotation/Regions/Region/Vertices/Vertex[@X, @Y]`.

    Returns:
        The layers in the order of the file; and `MicronsPerPixel`, None where missing or 0.

    Raises:
        OSError: the file is missing, truncated or not XML.
        ValueError: a vertex has no coordinates, or `MicronsPerPixel` is not a number.
    """
    check_regular(path)
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # syntax, or its encoding
        raise OSError(f"{path}: not an XML file that can be read, or truncated ({error})") from error
    annotations = []
    for layer in root.iter("Annotation"):
        polygons = [_polygon(region, path) for region in layer.iter("Region")]
        annotations.append(
            AperioAnnotation(
                attributes=tuple(entry.get("Name", "") for entry in layer.findall("Attributes/Attribute")),
                polygons=tuple(polygons),
            )
        )
    try:
        mpp = float(root.get("MicronsPerPixel") or 0)
    except ValueError as error:
        raise ValueError(f"{path}: MicronsPerPixel is {root.get('MicronsPerPixel')!r}, not a number") from error
    return annotations, mpp if mpp > 0 else None


def _polygon(region: ElementTree.Element, path: Path) -> np.ndarray:
    vertices = region.findall("Vertices/Vertex")
    try:
        points = np.array([(float(v.attrib["X"]), float(v.attrib["Y"])) for v in vertices]).reshape(-1, 2)
        if not are_coordinates(points):
            raise ValueError("not a finite number, or too large")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: region {region.get('Id')} has a vertex without valid X and Y ({error})") from error
    return points
