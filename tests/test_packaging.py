"""Why: the installed package must be complete (code, checkpoint, licence), declare its imports, and be pinned."""

import ast
import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import cfsam_hf
from cfsam_hf.bases.bundled import bundled_names

from . import REPOSITORY

PACKAGE = REPOSITORY / "cfsam_hf"
# Imported only by what their extras are for.
EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "evaluate": "train",
    "yaml": "train",
    "peft": "peft",
    "fsspec": "cluster",
    "ray": "cluster",
    "roifile": "imagej",
    "torchstain": "stain",
}
MODULE_OF = {
    "opencv-python-headless": "cv2",
    "openslide-python": "openslide",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "huggingface-hub": "huggingface_hub",
}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def package_files() -> set[str]:
    """Every file of the package in the working tree, as it should stand in a wheel."""
    paths = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(REPOSITORY).as_posix() for p in paths}


def imported_modules(folder: Path) -> set[str]:
    """The third-party packages that the files below a folder import, anywhere in them."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"cfsam_hf"}


def declared(extra: str | None = None) -> list[Requirement]:
    """The requirements of the package, or of one extra, as `setup.cfg` declares them."""
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    text = settings["options"]["install_requires"] if extra is None else settings["options.extras_require"][extra]
    return [Requirement(line) for line in text.split("\n") if line]


def requirements(extra: str | None = None) -> set[str]:
    """Names of the declared requirements, of the package or of one extra alone."""
    names = {normalized(requirement.name) for requirement in declared(extra)}
    return names if extra is None else names - requirements()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package built from a copy of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    shutil.copytree(PACKAGE, copy / "cfsam_hf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        copy,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def wheel_metadata(wheel):
    [name] = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_every_file_of_the_package(wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == package_files()


@pytest.mark.parametrize("checkpoint", bundled_names())
def test_the_wheel_holds_the_checkpoint(wheel, checkpoint):
    names = wheel.namelist()
    for name in ("config.json", "model.safetensors", "processor_config.json", "README.md"):
        assert f"cfsam_hf/checkpoints/{checkpoint}/{name}" in names
    assert wheel.getinfo(f"cfsam_hf/checkpoints/{checkpoint}/model.safetensors").file_size < 16e6


def test_the_wheel_is_below_its_limit(wheel):
    assert sum(file.compress_size for file in wheel.infolist()) < 40e6


def test_the_wheel_says_licence_version_and_command(wheel, wheel_metadata):
    assert wheel_metadata["License-Expression"] == "Apache-2.0"
    assert wheel_metadata["Version"] == cfsam_hf.__version__
    assert wheel_metadata["Requires-Python"] == ">=3.11"
    assert "test" in wheel_metadata.get_all("Provides-Extra")
    [licence] = [n for n in wheel.namelist() if n.endswith("licenses/LICENSE")]
    assert "Apache License" in wheel.read(licence).decode()
    [entry_points] = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    assert "cfsam = cfsam_hf.commands.terminal:main" in wheel.read(entry_points).decode()


def test_the_citation_names_this_version_and_the_paper():
    text = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {cfsam_hf.__version__}\n" in text
    assert "2603.28027" in text


def test_what_is_imported_is_declared():
    imported = imported_modules(PACKAGE)
    core = {MODULE_OF.get(name, name) for name in requirements()}
    assert imported - core - set(EXTRAS) == set()
    for module, extra in EXTRAS.items():
        assert module not in imported or module in {MODULE_OF.get(name, name) for name in requirements(extra)}


def test_what_is_declared_is_imported():
    # Compressed files need the first, and the library in the second is what openslide-python loads.
    imported_by_others = {"imagecodecs", "openslide-bin"}
    declared = {MODULE_OF.get(name, name) for name in requirements()}
    assert declared - imported_modules(PACKAGE) - imported_by_others == set()


def test_tests_and_examples_need_only_the_test_extra():
    available = {MODULE_OF.get(name, name) for name in requirements() | requirements("test")}
    local = {path.stem for folder in ("tests", "examples") for path in REPOSITORY.glob(f"{folder}/**/*.py")}
    # The page for a Space has requirements of its own, see test_space.py.
    available |= {"gradio"}
    # The benchmark of the engine ray needs its extra; the tests of the engine are skipped without it.
    available |= requirements("cluster")
    for folder in ("tests", "examples"):
        assert imported_modules(REPOSITORY / folder) - available - local - {"tests", "examples", "packaging"} == set()


def installed_with(waiting: list[tuple[str, str]]) -> set[str]:
    """Every package that comes with some, each a name and one of its extras (""), on this machine."""
    needed = set()
    while waiting:
        name, extra = waiting.pop()
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            for wanted in ("", *requirement.extras):
                if (normalized(requirement.name), wanted) not in needed:
                    needed.add((normalized(requirement.name), wanted))
                    waiting.append((requirement.name, wanted))
    return {name for name, _ in needed}


@pytest.mark.parametrize("extra", ["test", "docs", "cluster"])
def test_constraints_pin_all_that_an_extra_installs(extra):
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[0-9.]+(post\d+)?", str(pin.specifier)) for pin in pins)
    pinned = {normalized(pin.name) for pin in pins}
    wanted = [*declared(), *declared(extra)]
    direct = [(requirement.name, part) for requirement in wanted for part in ("", *requirement.extras)]
    assert {normalized(name) for name, _ in direct} <= pinned
    if extra == "docs":
        pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    if extra == "cluster":
        pytest.importorskip("ray", reason="the cluster extra is not installed")
    # The accelerator libraries of a CUDA build are pinned by torch itself.
    own = {name for name in installed_with(direct) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert own - pinned == set()


def test_readme_commands_are_marked_for_ci():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name in ("demo", "test"):
        assert re.search(rf"^<!-- command: {name} -->\n```.*\n(.+\n)+```$", text, flags=re.MULTILINE)
