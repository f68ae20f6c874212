"""Why: adapter files must recognise their base in every precision, and damaged or foreign ones be refused."""

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation
from cfsam_hf.model import adapter_files as adapter_files_cfsam
from cfsam_hf.model.adapter_files import (
    ADAPTER_FILE,
    WEIGHTS_FILE,
    BaseIdentity,
    content_hash,
    content_hashes,
    read_adapter,
    same_content,
    write_adapter,
)

BASE = BaseIdentity("facebook/sam-vit-base", "70c1a07f", {"bfloat16": "1", "float16": "2"})


def some_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(40, 30, generator=generator), "b": torch.randn(7, generator=generator)}


@pytest.fixture
def folder(tmp_path):
    write_adapter(tmp_path / "adapter", "colon", BASE, {"num_types": 2}, some_tensors())
    return tmp_path / "adapter"


def test_what_was_written_is_read(folder):
    adapter = read_adapter(folder)
    assert (adapter.name, adapter.base, adapter.folder) == ("colon", BASE, str(folder))
    assert adapter.config == {"num_types": 2}
    assert all(torch.equal(adapter.tensors[name], value) for name, value in some_tensors().items())
    assert sorted(os.listdir(folder)) == [ADAPTER_FILE, WEIGHTS_FILE]


def test_the_weights_file_names_its_base_by_itself(folder):
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["base_name"] == BASE.name
    assert metadata["base_revision"] == BASE.revision
    assert json.loads(metadata["base_hashes"]) == BASE.hashes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_weights_are_known_again_in_every_type(stored, dtype):
    # A base that was stored in one type, then loaded in another. Both 16-bit types after each other lose too much.
    if {stored, dtype} == {torch.bfloat16, torch.float16}:
        dtype = stored
    hashes = content_hashes(some_tensors())
    again = {name: value.to(stored).to(dtype) for name, value in some_tensors().items()}
    assert same_content(again, hashes)
    assert same_content(some_tensors(), content_hashes(again))


def test_other_values_names_and_shapes_are_not_the_same():
    hashes = content_hashes(some_tensors())
    tensors = some_tensors()
    changed = {**tensors, "b": tensors["b"].clone()}
    changed["b"][3] *= 1.01
    assert not same_content(changed, hashes)
    assert not same_content({"a.weight": tensors["a.weight"], "c": tensors["b"]}, hashes)
    assert not same_content({**tensors, "a.weight": tensors["a.weight"].reshape(30, 40)}, hashes)
    assert not same_content({"b": tensors["b"]}, hashes)


def test_the_hash_does_not_depend_on_order_or_memory_layout():
    tensors = some_tensors()
    turned = {"b": tensors["b"], "a.weight": tensors["a.weight"].t().contiguous().t()}
    assert content_hash(turned, torch.float16) == content_hash(tensors, torch.float16)
    assert content_hash({"x": torch.tensor(1.0)}, torch.float16) != content_hash({"x": torch.ones(1)}, torch.float16)


def test_an_older_adapter_is_replaced_whole_or_not_at_all(folder, monkeypatch):
    write_adapter(folder, "breast", BASE, {}, some_tensors(1))
    assert read_adapter(folder).name == "breast"

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter_files_cfsam, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_adapter(folder, "lung", BASE, {}, some_tensors(2))
    adapter = read_adapter(folder)
    assert adapter.name == "breast"
    assert torch.equal(adapter.tensors["b"], some_tensors(1)["b"])
    assert sorted(os.listdir(folder)) == [ADAPTER_FILE, WEIGHTS_FILE]


def test_files_of_two_adapters_are_refused(folder, tmp_path):
    write_adapter(tmp_path / "other", "other", BASE, {}, some_tensors(1))
    shutil.copy(tmp_path / "other" / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    with pytest.raises(OSError, match="belong to different adapters"):
        read_adapter(folder)


def test_damage_is_reported_with_the_file(folder):
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(OSError, match=r"safetensors is damaged"):
        read_adapter(folder)
    (folder / ADAPTER_FILE).write_text("{")
    with pytest.raises(OSError, match=r"json is damaged"):
        read_adapter(folder)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"no cfsam_adapter\.json"):
        read_adapter(tmp_path)


def test_a_newer_format_is_refused(folder):
    record = json.loads((folder / ADAPTER_FILE).read_text())
    (folder / ADAPTER_FILE).write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(ValueError, match="upgrade cfsam_hf"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format_version", "1"), ("format_version", None), ("weights_hash", 5), ("name", ["a"]), ("config", [1]),
        ("base", 5), ("base", {"name": 5}), ("base", {"name": "a", "hashes": {"int8": "x"}}), ("base", {"evil": 1}),
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_refused(name, value, folder):
    record = json.loads((folder / ADAPTER_FILE).read_text())
    (folder / ADAPTER_FILE).write_text(json.dumps(record | {name: value}))
    with pytest.raises(OSError, match=r"json is damaged, or was not written by save_adapter"):
        read_adapter(folder)


def test_a_base_is_called_by_name_revision_and_content():
    base = replace(BASE, hashes={"bfloat16": "0123456789abcdef"})
    assert str(base) == "'facebook/sam-vit-base' (revision 70c1a07f, bfloat16 content 0123456789ab)"
    assert str(BaseIdentity("mine")) == "'mine'"


@pytest.mark.parametrize("training", [None, {}, [1], "a", {"train_encoder": False}])
def test_a_checkpoint_says_which_base_it_was_trained_from(training):
    info = {"base_model": "owner/sam", "base_revision": 7, "training": training}
    model = SimpleNamespace(config=CfSamConfig(checkpoint_info=info), name_or_path="runs/mine")
    assert BaseIdentity.of(model) == BaseIdentity("owner/sam", "7")
    info["training"] = {"train_encoder": True}
    model.config = CfSamConfig(checkpoint_info=info)
    assert BaseIdentity.of(model) == BaseIdentity("runs/mine")


def test_an_adapter_of_vit_b_is_small():
    """33 MB in float32 and 17 MB in bfloat16, from the parameter counts."""
    with torch.device("meta"):
        model = CfSamForNucleiSegmentation(CfSamConfig(num_types=5))
    state = model.state_dict()
    numbers = sum(value.numel() for name, value in state.items() if model.is_trainable(name))
    # The header takes about 100 bytes a tensor.
    header = sum(len(name) + 100 for name in state if model.is_trainable(name))
    assert 4 * numbers + header < 33e6
    assert 2 * numbers + header < 17e6
