"""transformers' own test mixins, read from the source distribution of the installed version.

The wheel of transformers leaves its tests out, so the source distribution is downloaded, once per test session. Tests
that need it are skipped where the package index cannot be reached.
"""

import importlib
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import transformers

PACKAGE = "transformers_tests"
# What the mixins import and the source distribution lacks: none of it applies to this model.
ABSENT = {
    "exporters.test_export": ("ExportTesterMixin",),
    "generation.test_utils": ("GenerationTesterMixin",),
}
MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "order",
    "torch_compile_test",
)
FETCHED_URLS = "fetch_hub_objects_for_ci"


def suite_module(name: str, config: pytest.Config) -> ModuleType:
    """A module of transformers' tests, such as `test_modeling_common`; the calling test is skipped without it."""
    pytest.importorskip("parameterized")
    if PACKAGE not in sys.modules:
        for marker in MARKERS:
            config.addinivalue_line("markers", marker)
        _register_package(_download() / "tests")
    return importlib.import_module(f"{PACKAGE}.{name}")


def _download() -> Path:
    """The unpacked source distribution of the installed transformers."""
    folder = Path(tempfile.mkdtemp(prefix="transformers-tests-"))
    requirement = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", requirement]
    done = subprocess.run([*command, "--dest", folder], capture_output=True, text=True, timeout=300)
    archives = list(folder.glob("transformers-*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip(f"cannot download the source of {requirement}: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def _register_package(folder: Path) -> None:
    """Makes the folder importable as a package of another name than this project's `tests`."""
    spec = importlib.util.spec_from_loader(PACKAGE, loader=None, is_package=True)
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    for name, classes in ABSENT.items():
        parent, _, _ = name.partition(".")
        for full_name in (parent, name):
            module = sys.modules.setdefault(f"{PACKAGE}.{full_name}", ModuleType(f"{PACKAGE}.{full_name}"))
            module.__dict__.setdefault("__path__", [])
        for each in classes:
            setattr(module, each, type(each, (), {}))
    # The addresses of pictures on the Hub; no test here reads one.
    urls = ModuleType(FETCHED_URLS)
    urls.url_to_local_path = lambda url, return_url_if_not_found=True: url  # type: ignore[attr-defined]
    sys.modules.setdefault(FETCHED_URLS, urls)
