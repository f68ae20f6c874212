"""Shared fixtures: offline mode, exported checkpoints, scripts of `examples/`, and the real data if available."""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Workers of pytest-xdist share the cores, and so do the processes that they start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest

from . import REPOSITORY

REAL_DATA = Path(os.environ.get("CFSAM_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the public data sets (consep/, monuseg/, metric_oracles/, ...); skips where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the public data sets are not at {REAL_DATA}; set CFSAM_TEST_DATA to their folder")
    return REAL_DATA


@pytest.fixture(scope="session")
def documentation() -> Callable[[str], str]:
    """Gives the text of a page of `docs/`, which the tests hold to its figures, by name."""
    return lambda name: (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def exported_checkpoint(tmp_path_factory) -> Path:
    """The bundled checkpoint as a self-describing folder. Not to be changed."""
    from cfsam_hf import bundled_checkpoint
    from cfsam_hf.publish import export_for_hub

    return export_for_hub(bundled_checkpoint(), tmp_path_factory.mktemp("export") / "cfsam-tiny")


@pytest.fixture
def load_example(monkeypatch) -> Callable[[str], ModuleType]:
    """Gives a script of `examples/` as a module, by name.

    The folder is not put on the path: `examples/evaluate.py` would stand before the library of that name.
    """

    def load(name: str) -> ModuleType:
        path = REPOSITORY / "examples" / f"{name}.py"
        specification = importlib.util.spec_from_file_location(f"{name}_example", path)
        module = importlib.util.module_from_spec(specification)
        # Dataclasses look their module up.
        monkeypatch.setitem(sys.modules, module.__name__, module)
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def fresh_accelerate():
    """Lets a test use Accelerate with settings of its own, which it otherwise keeps for the whole process."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture
def training_root(tmp_path) -> Path:
    """Folder with the painted tiles, their split and the tiny base of `training_cases`."""
    from .training_cases import write_base, write_tiles

    write_tiles(tmp_path)
    write_base(tmp_path)
    return tmp_path


@pytest.fixture
def run_example(load_example, monkeypatch) -> Callable[..., None]:
    """Runs a script of `examples/` in this process, with arguments, and with some of its globals replaced."""

    def run(name: str, *arguments: str, **replaced) -> None:
        module = load_example(name)
        for variable, value in replaced.items():
            monkeypatch.setattr(module, variable, value)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        module.main()

    return run


@pytest.fixture
def interruptible():
    """SIGINT as in a foreground process: a shell's background jobs begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
