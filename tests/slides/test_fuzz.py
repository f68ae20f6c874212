"""Why: a damaged slide must end in a message that names it, never in a crash, a hang or a traceback."""

from .fuzz import run


def test_mutated_slides_are_read_or_named():
    figures = run(60, seed=3)
    assert figures.faults == []
    assert sum(figures.outcomes.values()) == 60
    assert min(figures.outcomes["read"], figures.outcomes["refused"]) > 10
