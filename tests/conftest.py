"""Shared fixtures: offline mode, the tiny model's configuration, and the real data where it is at hand."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

REAL_DATA = Path(os.environ.get("CFSAM_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the public data sets (consep/, monuseg/, metric_oracles/, ...); skips where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the public data sets are not at {REAL_DATA}; set CFSAM_TEST_DATA to their folder")
    return REAL_DATA


@pytest.fixture(scope="session")
def readme() -> str:
    """The text of the README, which the tests hold to its figures."""
    return (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
