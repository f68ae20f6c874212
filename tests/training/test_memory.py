"""Why: peak memory must be the most in use since the reset, beyond what was in use before."""

import subprocess
import sys

import pytest

from cfsam_hf.training import memory

# In a separate process, since the memory of one that has run a thousand tests rises and falls by itself. The module is
# loaded by its path, since importing the package around it takes seconds.
SCRIPT = """
import runpy
import sys
import torch
PeakMemory = runpy.run_path(sys.argv[1])["PeakMemory"]

torch.ones(100_000_000, dtype=torch.uint8)
memory = PeakMemory("cpu")
print(memory.megabytes())
torch.ones(60_000_000, dtype=torch.uint8)
print(memory.megabytes())
memory.reset()
print(memory.megabytes())
"""


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux forgets an older peak")
def test_peak_of_memory_that_was_freed_again():
    command = [sys.executable, "-c", SCRIPT, memory.__file__]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    before, during, after = map(float, run.stdout.split())
    assert before < 30
    assert 50 < during < 90
    assert after < 30
