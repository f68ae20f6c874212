"""Shared fixtures: offline mode, the tiny model's configuration, and the real data where it is at hand."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


@pytest.fixture
def load_example(monkeypatch) -> Callable[[str], ModuleType]:
    """Gives a script of `examples/` as a module, by name.

    The folder is not put on the path: `examples/evaluate.py` would stand before the library of that name.
    """

    def load(name: str) -> ModuleType:
        path = Path(__file__).resolve().parents[1] / "examples" / f"{name}.py"
        specification = importlib.util.spec_from_file_location(f"{name}_example", path)
        module = importlib.util.module_from_spec(specification)
        # Dataclasses look their module up.
        monkeypatch.setitem(sys.modules, module.__name__, module)
        specification.loader.exec_module(module)
        return module

    return load
