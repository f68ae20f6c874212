"""Why: damaged and hostile annotation files must give a result or a sentence that names the file, nothing else."""

import pytest

from tests.data.readers.fuzz import KINDS, run


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
