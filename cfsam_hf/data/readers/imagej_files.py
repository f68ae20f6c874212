"""Reads ImageJ's regions of interest with roifile: a `.roi` file, or the `.zip` of the ROI Manager."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..polygons import Polygon
from .geojson_files import GeoFeature, OutlineFile, encloses, read_ring


def read_imagej(path: Path) -> OutlineFile:
    """Reads polygons, freehand outlines, rectangles, ovals and composites; lines and points are left out.

    ROIs have no classes. Their names and groups are not read.

    Raises:
        ImportError: roifile is not installed.
        OSError: the file is damaged or not an ROI file.
    """
    try:
        import roifile
    except ImportError as error:
        raise ImportError(f"{path}: reading ImageJ ROIs needs roifile: pip install 'cfsam_hf[imagej]'") from error
    found = OutlineFile()
    left_out = 0
    try:
        contents = _contents(path)
        for number, content in enumerate(contents):
            polygons = _polygons(roifile.ImagejRoi.frombytes(content))
            if not polygons:
                left_out += 1
                continue
            found.features.append(GeoFeature(tuple(polygons), None, place=f"ROI {number}"))
    except OSError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, struct.error, OverflowError) as error:
        raise OSError(f"{path}: not a file of ImageJ ROIs that can be read, or truncated ({error})") from error
    if left_out:
        found.notes.append(f"{left_out} ROI{'s' * (left_out != 1)} without area left out (lines, points)")
    return found


def _contents(path: Path) -> list[bytes]:
    """The bytes of each ROI."""
    if path.suffix.lower() != ".zip":
        return [path.read_bytes()]
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.lower().endswith(".roi")]
            if sum(member.file_size for member in members) > max(2**26, 200 * path.stat().st_size):
                raise OSError(f"{path}: unpacks to more than is plausible for its size")
            return [archive.read(member) for member in members]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise OSError(f"{path}: the archive cannot be read, or is truncated ({error})") from error


def _polygons(roi: Any) -> list[Polygon]:
    """The outlines of a ROI; none for lines and points."""
    import roifile

    kinds = roifile.ROI_TYPE
    if roi.roitype in (kinds.LINE, kinds.FREELINE, kinds.POLYLINE, kinds.POINT, kinds.ANGLE, kinds.NOROI):
        return []
    if roi.roitype == kinds.OVAL:
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        centre = np.array([(roi.left + roi.right) / 2, (roi.top + roi.bottom) / 2])
        radii = np.array([roi.right - roi.left, roi.bottom - roi.top]) / 2
        rings = [centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)]
    elif roi.roitype == kinds.RECT and not roi.composite:
        left, top, right, bottom = roi.left, roi.top, roi.right, roi.bottom
        rings = [np.array([(left, top), (right, top), (right, bottom), (left, bottom)])]
    else:
        coordinates = roi.coordinates(multi=True)
        rings = list(coordinates) if isinstance(coordinates, list) else [coordinates]
    rings = [read_ring(ring) for ring in rings if len(ring)]
    return [(ring,) for ring in rings if encloses(ring)]
