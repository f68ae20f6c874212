"""The label map as TIFF."""

import json
import os

import numpy as np
import tifffile

from ..files.atomic import atomic_path
from ..model.result import NucleiResult, provenance


def write_instance_map(result: NucleiResult, path: str | os.PathLike) -> None:
    """Writes the instance map (H, W) as a one-page int32 TIFF, 0 background and the ids 1..N of the table.

    Compressed with Deflate, which every TIFF reader knows. The provenance record stands as JSON in the image
    description, and the resolution tags (pixels per centimetre) give the pixel size where mpp is known.

    Args:
        result: the nuclei of one image.
        path: the file to write; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    tags = {}
    if result.mpp is not None:
        pixels_per_centimetre = 1e4 / result.mpp
        tags = {"resolution": (pixels_per_centimetre, pixels_per_centimetre), "resolutionunit": "CENTIMETER"}
    with atomic_path(path) as working:
        tifffile.imwrite(
            working,
            np.ascontiguousarray(result.instance_map, dtype=np.int32),
            photometric="minisblack",
            compression="zlib",
            description=json.dumps(provenance(result)),
            software=f"cfsam_hf {result.version}",
            metadata=None,
            **tags,
        )
