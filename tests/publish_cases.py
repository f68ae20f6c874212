"""Shared by the tests of publishing: a picture, and a checkpoint loaded in a process without the package."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from skimage import data

CLEAN_PROCESS = Path(__file__).with_name("clean_process.py")


def tissue_image() -> np.ndarray:
    """(256, 300, 3) uint8: real tissue, and a width that is no multiple of the patch size."""
    return data.immunohistochemistry()[128:384, 100:400]


def run_clean(checkpoint: str, image: np.ndarray, folder: Path, *arguments: str, **environment: str) -> dict:
    """What `clean_process.py` writes, by name.

    Args:
        checkpoint: folder or Hub id.
        image: (H, W, 3) uint8.
        folder: for files of its own, a fresh cache of transformers' modules among them.
        arguments: further arguments of the script.
        environment: variables to set.
    """
    folder.mkdir(exist_ok=True)
    np.save(folder / "image.npy", image)
    command = [sys.executable, "-I", CLEAN_PROCESS, checkpoint, folder / "image.npy", folder / "out.npz", *arguments]
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as record:
        return dict(record)
