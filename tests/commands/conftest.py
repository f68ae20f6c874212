"""Fixtures of the commands' tests."""

import pytest

from ..segment_cases import threshold_pipeline


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str]]:
    """Replaces the loading of the pipeline by `cfsam segment`; the list gets the (checkpoint, device) of each load."""
    from cfsam_hf.commands import segment

    asked = []

    def load(checkpoint, device):
        asked.append((checkpoint, device))
        return threshold_pipeline

    monkeypatch.setattr(segment, "load_pipeline", load)
    return asked
