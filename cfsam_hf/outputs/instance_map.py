"""The label map as TIFF."""

import json
import os

import numpy as np
import tifffile

from ..files.atomic import atomic_path
from ..files.own_results import SOFTWARE
from ..model.result import NucleiResult, provenance


def write_instance_map(result: NucleiResult, path: str | os.PathLike[str]) -> None:
    """Writes the instance map (H, W) as a one-page int32 TIFF, 0 background and the ids 1..N of the table.

    Compressed with Deflate, which every TIFF reader knows. The image description holds the provenance record as JSON,
    and the resolution tags (pixels per centimetre) give the pixel size if mpp is known.

    Args:
        result: the nuclei of one image.
        path: the file; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    pixels_per_centimetre = None if result.mpp is None else 1e4 / result.mpp
    with atomic_path(path) as working:
        tifffile.imwrite(
            working,
            np.ascontiguousarray(result.instance_map, dtype=np.int32),
            photometric="minisblack",
            compression="zlib",
            description=json.dumps(provenance(result)),
            software=f"{SOFTWARE} {result.version}",
            metadata=None,
            resolution=None if pixels_per_centimetre is None else (pixels_per_centimetre, pixels_per_centimetre),
            resolutionunit=None if pixels_per_centimetre is None else "CENTIMETER",
        )
