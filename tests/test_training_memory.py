"""Peak memory is what was in use at most since the reset, over what was there before."""

import pytest
import torch

from cfsam_hf.training.memory import CLEAR, PeakMemory


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux forgets an older peak")
def test_peak_of_memory_that_was_freed_again():
    large = torch.ones(100_000_000, dtype=torch.uint8)
    del large
    memory = PeakMemory("cpu")
    assert memory.megabytes() < 30
    large = torch.ones(60_000_000, dtype=torch.uint8)
    del large
    assert 50 < memory.megabytes() < 80
    memory.reset()
    assert memory.megabytes() < 30
