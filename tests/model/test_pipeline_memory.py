"""Why: an image must not need more memory than a small laptop has, whatever windows it is cut into."""

import subprocess
import sys

import pytest

from cfsam_hf.bases.bundled import bundled_names

# A process of its own, since the highest memory of a process never falls.
SCRIPT = """
import resource, sys
import numpy as np
from cfsam_hf.commands.loading import load_pipeline

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

pipe = load_pipeline(sys.argv[1], "cpu")
image = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
before = peak()
pipe(image, mpp=0.25, progress=False)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_names())
def test_an_image_of_1000_pixels_takes_less_than_half_a_gibibyte(name):
    pytest.importorskip("resource", reason="only Unix counts the memory of a process")
    run = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, check=True)
    # The image with its maps alone has 30 MB.
    assert 30e6 < int(run.stdout) < 2**29
