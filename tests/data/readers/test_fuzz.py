"""Why: damaged and hostile annotation files must give a result or a sentence that names the file, nothing else."""

import pytest

from tests.data.readers.fuzz import FLOOR, run
from tests.data.readers.fuzz_kinds import KINDS, LARGE


@pytest.mark.filterwarnings("ignore")
def test_a_few_hundred_mutated_files():
    figures = run(440, seed=11)
    assert figures.faults == []
    assert set(figures.refusals) == set(KINDS)
    assert figures.answers.total() + figures.refusals.total() == 440


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_thousands_of_mutated_files(name):
    assert run(1000, seed=7, names=(name,)).faults == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_files_that_need_memory(name):
    """Small files stay below the floor of the bound, whatever they claim."""
    figures = run(200, seed=5, names=(name,), scene=LARGE)
    assert figures.faults == []
    assert figures.due[name] > FLOOR / 2
