"""Why: the metrics must work without a model and torch, and the examples in their docstrings must run."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import cfsam_hf.metrics

FOLDER = Path(cfsam_hf.metrics.__file__).parent
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
FLAT = [f"cfsam_hf.metrics.{path.stem}" for path in MODULES] + ["cfsam_hf.metrics.hub"]
HUB = [f"cfsam_hf.metrics.hub.{name}.{name}" for name in cfsam_hf.metrics.EVALUATE_MODULES]


@pytest.mark.parametrize("name", FLAT + HUB)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    if name in HUB:
        evaluate = pytest.importorskip("evaluate", reason="needs the extra `train`")
        monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
    assert tried > 0


def test_every_public_function_has_an_example():
    for name in cfsam_hf.metrics.__all__:
        thing = getattr(cfsam_hf.metrics, name)
        if callable(thing) and not isinstance(thing, type):
            assert ">>>" in thing.__doc__, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_plain_functions_import_numpy_and_scipy_only(path):
    allowed = {"numpy", "scipy", "collections", "dataclasses", "functools", "math", "operator", "typing"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] in allowed
