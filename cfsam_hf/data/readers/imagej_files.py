"""Reads ImageJ's regions of interest with roifile: a `.roi` file, or the `.zip` of the ROI Manager."""

import struct
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from skimage.measure import points_in_poly

from ...files.archives import naming_archive
from ...files.own_results import is_own_result
from ..polygons import Polygon
from .geojson_files import GeoFeature, OutlineFile, class_name, encloses, read_ring

OVAL_POINTS = 64
CLASS, KIND = "qupath.object.classification", "qupath.object.type"
"""The properties in which QuPath states what it sends to ImageJ; this package writes them as well."""

CELL, NUCLEUS = "cell", "cell.nucleus"


def read_imagej(path: Path) -> OutlineFile:
    """Reads polygons, freehand outlines, rectangles, ovals and composites with their holes.

    Lines, points, texts and pictures are left out. The class is QuPath's property of the ROI; in a file without any,
    ImageJ's group ("group 2").

    Raises:
        ImportError: roifile is not installed.
        OSError: the file is damaged or not an ROI file.
        ValueError: cells are outlined without their nuclei.
    """
    try:
        import roifile
    except ImportError as error:
        raise ImportError(f"{path}: reading ImageJ ROIs needs roifile: pip install 'cfsam_hf[imagej]'") from error
    found = OutlineFile(upright=is_own_result(path))
    left_out = 0
    groups: list[int] = []
    try:
        for number, content in enumerate(_contents(path)):
            roi = roifile.ImagejRoi.frombytes(content)
            polygons = _polygons(roi)
            if not polygons:
                left_out += 1
                continue
            properties = roi.properties
            kind = str(properties.get(KIND, "")).lower().replace("_", " ") or None
            name = class_name(str(properties.get(CLASS, "")))
            found.features.append(GeoFeature(tuple(polygons), name, kind, place=f"ROI {number}"))
            groups.append(int(roi.group))
    except OSError:
        raise
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, struct.error, OverflowError) as error:
        raise OSError(f"{path}: not a file of ImageJ ROIs that can be read, or truncated ({error})") from error
    if left_out:
        found.notes.append(f"{left_out} ROI{'s' * (left_out != 1)} without area left out (lines, points, texts)")
    if any(groups) and not any(feature.name for feature in found.features):
        found.features = [
            replace(feature, name=f"group {group}" if group else None)
            for feature, group in zip(found.features, groups, strict=True)
        ]
        found.notes.append("no ROI states a class; the classes are ImageJ's groups")
    _choose_nuclei(found, path)
    return found


def _choose_nuclei(found: OutlineFile, path: Path) -> None:
    """Of QuPath's cells, which have two outlines, keep the nuclei."""
    cells = sum(feature.kind == CELL for feature in found.features)
    nuclei = sum(feature.kind == NUCLEUS for feature in found.features)
    if cells > nuclei:
        raise ValueError(
            f"{path}: {cells} outlines of cells with {nuclei} of nuclei: send cells with their nuclei to ImageJ, or "
            "detections"
        )
    if cells:
        found.notes.append(f"outlines of cells left out, their nuclei read: {cells}")
    found.features = [
        replace(feature, kind="detection") if feature.kind == NUCLEUS else feature
        for feature in found.features
        if feature.kind != CELL
    ]


def _contents(path: Path) -> list[bytes]:
    """The bytes of each ROI."""
    if path.suffix.lower() != ".zip":
        return [path.read_bytes()]
    with naming_archive(path), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if _is_roi(member.filename)]
        if not members:
            raise OSError(f"{path}: the archive holds no .roi file")
        # zipfile asks for as many bytes as the directory states, and allocates them.
        if sum(member.compress_size for member in members) > path.stat().st_size:
            raise OSError(
                f"{path}: the archive cannot be read, or is truncated (its members are larger than the file)"
            )
        if sum(member.file_size for member in members) > max(2**26, 200 * path.stat().st_size):
            raise OSError(f"{path}: unpacks to more than is plausible for its size")
        return [archive.read(member) for member in members]


def _is_roi(name: str) -> bool:
    """Whether a member of an archive is a ROI; macOS adds a file of its own for each, "__MACOSX/._name"."""
    return name.lower().endswith(".roi") and not PurePosixPath(name).name.startswith("._")


def _polygons(roi: Any) -> list[Polygon]:
    """The outlines of a ROI; none for what has no area."""
    import roifile

    kinds, subtypes = roifile.ROI_TYPE, roifile.ROI_SUBTYPE
    if roi.roitype in (kinds.LINE, kinds.FREELINE, kinds.POLYLINE, kinds.POINT, kinds.ANGLE, kinds.NOROI):
        return []
    if roi.subtype in (subtypes.TEXT, subtypes.IMAGE, subtypes.ARROW):
        return []
    left, top, right, bottom = roi.left, roi.top, roi.right, roi.bottom
    if roi.subpixelrect:
        left, top, right, bottom = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    if roi.roitype == kinds.OVAL:
        angles = np.linspace(0, 2 * np.pi, OVAL_POINTS, endpoint=False)
        centre, radii = np.array([left + right, top + bottom]) / 2, np.array([right - left, bottom - top]) / 2
        rings = [centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)]
    elif roi.roitype == kinds.RECT and not roi.composite:
        rings = [np.array([(left, top), (right, top), (right, bottom), (left, bottom)])]
    else:
        coordinates = roi.coordinates(multi=True)
        rings = list(coordinates) if isinstance(coordinates, list) else [coordinates]
    rings = [read_ring(ring) for ring in rings if len(ring)]
    return _with_holes([ring for ring in rings if encloses(ring)])


def _with_holes(rings: list[np.ndarray]) -> list[Polygon]:
    """Polygons of the rings of a composite, which fills what lies in an odd number of them."""
    if len(rings) < 2:
        return [(ring,) for ring in rings]
    # A point in the middle of an edge: a hole and its exterior may share corners.
    around = [
        [other for other, outer in enumerate(rings) if other != own and points_in_poly([_beside(ring)], outer)[0]]
        for own, ring in enumerate(rings)
    ]
    polygons: dict[int, list[np.ndarray]] = {
        own: [ring] for own, ring in enumerate(rings) if len(around[own]) % 2 == 0
    }
    for own, ring in enumerate(rings):
        owners = [other for other in around[own] if len(around[other]) == len(around[own]) - 1]
        if own not in polygons and owners and owners[0] in polygons:
            polygons[owners[0]].append(ring)
    return [tuple(polygon) for polygon in polygons.values()]


def _beside(ring: np.ndarray) -> np.ndarray:
    """A point `(2,)` just inside a ring, beside the middle of its longest edge."""
    edges = np.roll(ring, -1, axis=0) - ring
    longest = int(np.abs(edges).sum(axis=1).argmax())
    middle, edge = ring[longest] + edges[longest] / 2, edges[longest]
    step = np.array([-edge[1], edge[0]]) / max(float(np.hypot(*edge)), 1e-12) * 1e-3
    inside: np.ndarray = middle + step if points_in_poly([middle + step], ring)[0] else middle - step
    return inside
