"""Why: scores are worthless unless their file says which weights they belong to."""

import hashlib
import json

import pytest

from cfsam_hf import NucleiSegmentationPipeline
from cfsam_hf.evaluation import checkpoint_system

from ..painted_model import PaintedModel, painted_config
from ..tiny import tiny_test_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ORIGIN = ("source", "revision", "weights_sha256")


@pytest.fixture
def pipe():
    return NucleiSegmentationPipeline(model=PaintedModel(painted_config()))


def origin(pipe, source) -> dict:
    facts = checkpoint_system(pipe, str(source)).facts
    assert {"kind", "checkpoint", "model_type", "parameters", "decoding"} <= facts.keys()
    return {name: facts[name] for name in ORIGIN if name in facts}


def test_a_folder_is_told_by_its_name_and_weights(pipe, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert origin(pipe, folder) == {"source": "mine"}
    (folder / "model.safetensors").write_bytes(b"weights")
    expected = {"source": "mine", "weights_sha256": hashlib.sha256(b"weights").hexdigest()}
    assert origin(pipe, folder) == expected
    monkeypatch.chdir(folder)
    assert origin(pipe, ".") == expected
    # The commit that a base came from is not that of a folder made of it.
    pipe.model.config._commit_hash = COMMIT
    assert origin(pipe, "../mine") == expected


def test_an_adapter_is_told_by_its_own_weights(pipe, tmp_path):
    model = tiny_test_model()
    model.save_adapter(tmp_path / "skin", name="skin")
    weights = (tmp_path / "skin" / "cfsam_adapter.safetensors").read_bytes()
    assert origin(pipe, tmp_path / "skin") == {"source": "skin", "weights_sha256": hashlib.sha256(weights).hexdigest()}


def test_a_hub_checkpoint_is_told_by_id_commit_and_cached_weights(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pipe.model.config._commit_hash = COMMIT
    assert origin(pipe, "someone/nuclei") == {"source": "someone/nuclei", "revision": COMMIT}
    snapshot = tmp_path / "models--someone--nuclei" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    found = origin(pipe, "someone/nuclei")
    assert found == {
        "source": "someone/nuclei",
        "revision": COMMIT,
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    assert str(tmp_path) not in json.dumps(checkpoint_system(pipe, "someone/nuclei").facts)


def test_an_adapter_of_the_hub_is_told_by_its_own_commit_and_weights(pipe, tmp_path):
    snapshot = tmp_path / "models--someone--skin" / "snapshots" / COMMIT
    tiny_test_model().save_adapter(snapshot, name="skin")
    pipe.model.config._commit_hash = "the base's"
    pipe.model.adapter_folder = str(snapshot)
    weights = (snapshot / "cfsam_adapter.safetensors").read_bytes()
    assert origin(pipe, "someone/skin") == {
        "source": "someone/skin",
        "revision": COMMIT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
