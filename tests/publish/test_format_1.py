"""Why: checkpoints that the version before `cfsam_hf.model` exported must keep loading, to the same nuclei.

`export_format_1.tar.xz` is what that version's `export_for_hub` wrote of a tiny model trained on [`picture`], and, in
`expected.npz`, the nuclei that it found. It cannot be made again by a later version.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForImageSegmentation, AutoProcessor, pipeline

from cfsam_hf.commands.loading import load_pipeline

from ..publish_cases import run_clean

ARCHIVE = Path(__file__).with_name("export_format_1.tar.xz")
CENTRES = [(20, 20), (22, 60), (50, 40), (70, 72), (76, 22)]


def picture() -> np.ndarray:
    """Five dark discs on a bright ground, (96, 96, 3) uint8: what the model was trained on."""
    y, x = np.mgrid[:96, :96]
    image = np.full((96, 96, 3), 225)
    for row, column in CENTRES:
        image[(y - row) ** 2 + (x - column) ** 2 < 100] = (90, 50, 130)
    return (image + np.random.default_rng(0).integers(-8, 9, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("format_1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    assert (folder / "checkpoint" / "post_processing_cfsam.py").is_file()
    return folder / "checkpoint"


def assert_same_nuclei(exported: Path, instance_map: np.ndarray, scores: np.ndarray, types: np.ndarray) -> None:
    with np.load(exported.parent / "expected.npz") as file:
        expected = dict(file)
    assert len(scores) == len(CENTRES)
    # Another processor may round a pixel of a border to the other side.
    assert (instance_map != expected["instance_map"]).mean() < 0.001
    np.testing.assert_allclose(scores, expected["scores"], atol=1e-3)
    np.testing.assert_array_equal(types, expected["types"])


def test_the_package_serves_it_by_its_own_classes_without_asking_for_trust(exported, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail(f"asked: {question}"))
    folder = str(exported)
    parts = [auto.from_pretrained(folder) for auto in (AutoConfig, AutoModelForImageSegmentation, AutoProcessor)]
    for pipe in (pipeline("nuclei-segmentation", model=folder), load_pipeline(folder, "cpu")):
        parts += [pipe, pipe.model, pipe.image_processor]
        result = pipe(picture(), mpp=0.25)
        assert_same_nuclei(exported, result.instance_map, result.table["score"], result.table["type"])
    assert all(type(part).__module__.startswith("cfsam_hf.model.") for part in parts)


def test_its_own_code_serves_where_the_package_is_not_installed(exported, tmp_path):
    outputs = run_clean(str(exported), picture(), tmp_path / "clean")
    assert_same_nuclei(exported, outputs["instance_map"], outputs["scores"], outputs["types"])
    assert outputs["version"] == "0.1.0"
