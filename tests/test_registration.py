"""Why: importing the package must cost almost nothing, and transformers must always know the model."""

import ast
import importlib
import importlib.util
import subprocess
import sys
import threading

import pytest

import cfsam_hf
from cfsam_hf import registration

from . import REPOSITORY

# What a program sees that has imported both packages: the model is known, and transformers is as it always is.
CHECK = """
import sys
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageSegmentation, AutoProcessor, pipeline
import transformers
import cfsam_hf
from cfsam_hf.registration import _FINDER
folder = cfsam_hf.bundled_checkpoint()
assert type(AutoConfig.from_pretrained(folder)) is cfsam_hf.CfSamConfig
assert type(AutoImageProcessor.from_pretrained(folder)) is cfsam_hf.CfSamImageProcessor
assert type(AutoProcessor.from_pretrained(folder)) is cfsam_hf.CfSamProcessor
assert type(AutoModelForImageSegmentation.from_pretrained(folder)) is cfsam_hf.CfSamForNucleiSegmentation
assert pipeline("nuclei-segmentation").model.name_or_path == str(folder)
assert _FINDER not in sys.meta_path
assert type(transformers.__spec__.loader).__module__.startswith("_frozen_importlib")
"""


def run_python(code: str) -> str:
    """Runs code in a process of its own and returns what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import cfsam_hf, transformers",
        "import transformers, cfsam_hf",
        "import cfsam_hf.model.spans",
        "import cfsam_hf, peft",
    ],
)
def test_the_model_is_registered_in_whatever_order_the_packages_are_imported(imports):
    run_python(f"{imports}\n{CHECK}")


def test_what_needs_no_network_imports_none():
    modules = "cfsam_hf, cfsam_hf.metrics, cfsam_hf.bases.bundled, cfsam_hf.files.atomic, cfsam_hf.commands.terminal"
    code = f"import sys, {modules}; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    assert run_python(code) == "[]\n"


def test_public_names_are_declared_once_for_all():
    """The names of `__all__`, those imported on first use, and those that type checkers see, are the same."""
    tree = ast.parse((REPOSITORY / "cfsam_hf" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: f".{node.module}" for node in block.body for alias in node.names}
    assert seen == cfsam_hf._MODULES
    assert {*seen, "__version__"} == set(cfsam_hf.__all__)
    assert set(cfsam_hf.__all__) <= set(dir(cfsam_hf))
    for name in cfsam_hf.__all__:
        assert getattr(cfsam_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cfsam_hf.nonsense  # noqa: B018


def test_the_version_is_that_of_the_code():
    from cfsam_hf.model.result import __version__

    assert cfsam_hf.__version__ == __version__


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small package in the place of transformers, and a record of when the model was imported."""
    (tmp_path / "little_library").mkdir()
    (tmp_path / "little_library" / "__init__.py").write_text("import time\ntime.sleep(0.05)\ncomplete = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registration, "_LIBRARY", "little_library")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    seen = []
    monkeypatch.setattr(registration, "_import_model", lambda: seen.append(sys.modules["little_library"].complete))
    yield seen
    sys.modules.pop("little_library", None)


def test_the_model_is_imported_once_when_the_library_is_complete(library):
    registration.register_with_transformers()
    registration.register_with_transformers()
    assert sys.meta_path.count(registration._FINDER) == 1
    # Looking for the library, as many packages do to see whether it is installed, is not importing it.
    assert importlib.util.find_spec("little_library").origin.endswith("__init__.py")
    assert library == []
    module = importlib.import_module("little_library")
    assert library == [True]
    assert registration._FINDER not in sys.meta_path
    assert not isinstance(module.__spec__.loader, registration._RegisteringLoader)
    assert module.__loader__ is module.__spec__.loader
    importlib.reload(module)
    assert library == [True]
    registration.register_with_transformers()
    assert library == [True, True]
    assert registration._FINDER not in sys.meta_path


def test_a_library_that_fails_to_import_is_waited_for_again(library, tmp_path):
    source = tmp_path / "little_library" / "__init__.py"
    text = source.read_text()
    source.write_text("raise ImportError('not today')\n")
    registration.register_with_transformers()
    with pytest.raises(ImportError, match="not today"):
        importlib.import_module("little_library")
    source.write_text(f"{text}#\n")
    importlib.invalidate_caches()
    importlib.import_module("little_library")
    assert library == [True]


def test_threads_that_import_the_library_at_once_all_find_the_model_registered(library):
    registration.register_with_transformers()
    found = []

    def use() -> None:
        importlib.import_module("little_library")
        found.append(list(library))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True]] * 8
