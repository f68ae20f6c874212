"""The nuclei as a set of ImageJ regions of interest, which the ROI Manager of ImageJ and Fiji opens."""

import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files.atomic import atomic_path
from ..model.result import NucleiResult, provenance, type_styles

if TYPE_CHECKING:
    from roifile import ImagejRoi

QUPATH = "qupath.object."
"""How QuPath begins the properties of ROIs that it sends to ImageJ and reads back."""

MEASUREMENTS = ("score", "type_probability", "area_um2")
LARGEST_GROUP = 255
LARGEST_COORDINATE = 32_767
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0


def require_roifile() -> Any:
    """Returns the module roifile.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import roifile
    except ImportError as error:
        raise ImportError("ImageJ ROIs need roifile: pip install 'cfsam_hf[imagej]'") from error
    return roifile


def nucleus_rois(result: NucleiResult) -> Iterator["ImagejRoi"]:
    """The ROIs of a result, in the order of its table.

    Each is a traced outline along pixel edges, so that ImageJ measures the pixels of the nucleus; a nucleus with holes
    is a composite. The group is the type id (0 without types), the stroke has the type's colour, and the properties
    are those that QuPath reads: `qupath.object.type`, `qupath.object.classification` and measurements.

    Raises:
        ImportError: roifile is not installed.
    """
    roifile = require_roifile()
    styles = {style.type_id: style for style in type_styles(result)}
    columns = {name: result.table[name].tolist() for name in ("id", "type", *MEASUREMENTS)}
    for row, rings in enumerate(result.contours):
        style = styles[columns["type"][row]]
        roi = _outline(roifile, rings)
        roi.name = re.sub(r"[^\w+-]+", "_", f"{columns['id'][row]:06d}-{style.name}")
        roi.group = style.type_id if style.type_id <= LARGEST_GROUP else 0
        roi.stroke_color = bytes((255, *style.color))
        properties = {"type": "detection", "classification": " ".join(style.name.split())}
        measured = {f"measurements.{name}": round(columns[name][row], 6) for name in MEASUREMENTS}
        properties |= {name: value for name, value in measured.items() if np.isfinite(value)}
        roi.properties = {QUPATH + name: value for name, value in properties.items()}
        yield roi


def write_rois(result: NucleiResult, path: str | os.PathLike[str]) -> None:
    """Writes the nuclei as a `.zip` of ROIs (see [`nucleus_rois`]), which ImageJ opens by File, Open.

    The archive's comment is the provenance record.

    Args:
        result: the nuclei of one image.
        path: the file; an existing one is replaced.

    Raises:
        ImportError: roifile is not installed.
        OSError: the file cannot be written.
    """
    record = json.dumps(provenance(result), ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as working, zipfile.ZipFile(working, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = record.encode()
        for roi in nucleus_rois(result):
            # Without the time of writing: the same nuclei give the same file.
            archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi"), roi.tobytes(), zipfile.ZIP_DEFLATED)


def _outline(roifile: Any, rings: Sequence[np.ndarray]) -> "ImagejRoi":
    """A ROI of closed rings, the exterior first."""
    exterior = rings[0]
    roi: ImagejRoi = roifile.ImagejRoi.frompoints(
        # Larger integers would not fit into the file's 16 bits.
        exterior.astype(np.float32) if exterior.max(initial=0) > LARGEST_COORDINATE else exterior
    )
    roi.roitype = roifile.ROI_TYPE.TRACED
    if len(rings) > 1:
        path: list[float] = []
        for ring in rings:
            for place, (x, y) in enumerate(ring.tolist()):
                path += [LINE_TO if place else MOVE_TO, x, y]
            path.append(CLOSE)
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.n_coordinates = 0
        roi.integer_coordinates = roi.subpixel_coordinates = None
        roi.options &= ~roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.multi_coordinates = np.array(path, dtype=np.float32)
        roi.shape_roi_size = len(path)
    # The box ends after the last pixel edge, not a pixel later.
    roi.left, roi.top = (int(value) for value in exterior.min(axis=0))
    roi.right, roi.bottom = (int(value) for value in exterior.max(axis=0))
    return roi
