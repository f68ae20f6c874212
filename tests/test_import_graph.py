"""Why: rooms stay independent only if imports follow the table of rooms and form no circle."""

from pathlib import Path

import pytest

import cfsam_hf

from .import_graph import LAZY, TOP, TYPING, Graph, circles, closure, forbidden_imports, not_flat, read_graph

PACKAGE = Path(cfsam_hf.__file__).parent
SHIPPED = PACKAGE / "model"

BELOW_EVALUATION = {"model", "bases", "slides", "outputs", "features", "drawing", "files", "metrics", "data"}
ROOMS = {
    "model": set(),
    "files": set(),
    "metrics": set(),
    "peft_tuner": {"model"},
    "registration": {"model"},
    "bases": {"model", "files"},
    "slides": {"model", "files"},
    "features": {"model"},
    "outputs": {"model", "files"},
    "inference": {"model", "slides", "outputs", "drawing", "files", "data"},
    "data": {"model", "metrics", "files"},
    "drawing": {"model", "data", "files"},
    "baselines": {"model"},
    "publish": {"model", "bases", "files", "inference"},
    "evaluation": BELOW_EVALUATION | {"baselines"},
    "training": BELOW_EVALUATION | {"baselines", "evaluation", "publish"},
}
"""The other rooms that each room may import: design and architecture of the package in one table."""
EVERYTHING = set(ROOMS) | {"commands", ""}
ROOMS |= {"commands": EVERYTHING, "__main__": {"commands"}, "": EVERYTHING}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph(PACKAGE)


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    """A made-up package `house` of these files; its folders get an `__init__`."""
    package = folder / "house"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.parent / "__init__.py").exists():
            (path.parent / "__init__.py").write_text("")
        path.write_text(text)
    return package


def test_no_module_lies_on_a_circle(graph):
    assert circles(graph) == []


def test_rooms_import_only_what_lies_below(graph):
    assert forbidden_imports(graph, ROOMS) == []


def test_the_table_has_no_circle():
    following = {name: allowed for name, allowed in ROOMS.items() if name not in ("", "commands", "__main__")}
    for name, allowed in following.items():
        assert name not in closure(following, allowed), name


def test_the_shipped_folder_is_flat_and_alone(graph):
    assert not_flat(SHIPPED) == []
    assert not any(path.is_dir() for path in SHIPPED.iterdir() if path.name != "__pycache__")


def test_export_takes_exactly_the_shipped_folder(graph):
    from cfsam_hf.publish.folder import CUSTOM_PIPELINES, MODEL_AUTO_MAP, PROCESSOR_AUTO_MAP, code_files

    files = {path.name for path in SHIPPED.iterdir() if path.is_file() and path.name != "__init__.py"}
    assert {path.name for path in code_files()} == files
    # All code that the classes named by a checkpoint lead to is among them.
    named = [*MODEL_AUTO_MAP.values(), *PROCESSOR_AUTO_MAP.values(), *(of["impl"] for of in CUSTOM_PIPELINES.values())]
    following: dict[str, list[str]] = {module: [] for module in graph.modules}
    for one in graph.imports:
        following[one.importer].append(one.imported)
    reached = closure(following, [f"model.{name.split('.')[0]}" for name in named])
    assert {f"{module.removeprefix('model.')}.py" for module in reached} <= files


def test_metrics_do_without_torch(graph):
    for module, others in graph.others.items():
        if module.split(".")[0] in ("metrics", "files"):
            assert not others & {"torch", "transformers", "accelerate", "peft"}, module


def test_a_circle_is_found(tmp_path):
    files = {
        "a/one.py": "from ..b.two import x\n",
        "b/two.py": "def f():\n    from ..c import three\n",
        "c/three.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..a.one import x\n",
        "c/four.py": "from .three import x\n",
    }
    package = write_tree(tmp_path, files)
    found = read_graph(package)
    assert circles(found) == [["a.one", "b.two", "c.three"]]
    kinds = {(one.importer, one.imported): one.kind for one in found.imports}
    assert kinds == {
        ("a.one", "b.two"): TOP,
        ("b.two", "c.three"): LAZY,
        ("c.three", "a.one"): TYPING,
        ("c.four", "c.three"): TOP,
    }
    (package / "c" / "three.py").write_text("")
    assert circles(read_graph(package)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from ..up.high import x\n", ["low.one, line 1, imports up.high at the top"]),
        ("def f():\n    import house.up\n", ["low.one, line 2, imports up inside a function"]),
        ("from ..up import high, x\n", [f"low.one, line 1, imports {name} at the top" for name in ("up.high", "up")]),
        ("from .. import x\n", ["low.one, line 1, imports __init__ at the top"]),
        ("from house.up.high import x\n", ["low.one, line 1, imports up.high at the top"]),
        ("import numpy\nfrom .two import y\nfrom . import two\n", []),
    ],
)
def test_an_upward_arrow_is_found(tmp_path, text, expected):
    package = write_tree(tmp_path, {"low/one.py": text, "low/two.py": "", "up/high.py": "from ..low import one\n"})
    rooms = {"low": set(), "up": {"low"}, "": {"low", "up"}}
    assert forbidden_imports(read_graph(package), rooms) == expected


def test_a_room_that_the_table_lacks_is_found(tmp_path):
    package = write_tree(tmp_path, {"new/one.py": "import torch.nn\nfrom numpy import array\n"})
    assert forbidden_imports(read_graph(package), {"": set()}) == ["the table lacks the room 'new'"]
    assert read_graph(package).others["new.one"] == {"torch", "numpy"}


@pytest.mark.parametrize(
    "line",
    ["from . import two", "from ..up import x", "from .missing import x", "import house.up", "from house.up import x"],
)
def test_what_keeps_files_from_being_flat_is_found(tmp_path, line):
    text = f"import os\nfrom numpy import array\nfrom .two import y\n\n\ndef f():\n    {line}\n"
    package = write_tree(tmp_path, {"model/one.py": text, "model/two.py": "y = 1\n", "up/__init__.py": ""})
    [found] = not_flat(package / "model")
    assert found.startswith("one.py, line 7, imports ")
