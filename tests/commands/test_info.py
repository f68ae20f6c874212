"""Why: one command must say what a checkpoint is and, above all, under which licence its weights are."""

import json

import numpy as np
import pytest
import tifffile
from safetensors.numpy import save_file
from transformers import SamConfig

from cfsam_hf import CfSamForNucleiSegmentation, bundled_checkpoint
from cfsam_hf.commands import terminal as cli
from cfsam_hf.commands.info import describe_checkpoint, part_of
from cfsam_hf.commands.loading import resolve_checkpoint, resolve_device
from cfsam_hf.model.configuration_cfsam import CfSamConfig

INFO = {
    "name": "cfsam-test",
    "description": "A model for testing.",
    "license": "CC-BY-NC-SA-4.0",
    "license_note": "For research only.",
    "data": [{"name": "CoNSeP", "tiles": 24, "license": "research only"}],
    "metrics": {"consep": {"PQ": 0.43215, "AJI": None}},
    "seed": 7,
}
WEIGHTS = {
    "sam.vision_encoder.layers.0.mlp.lin1.weight": (4, 5),
    "sam.vision_encoder.layers.0.adapter.down.weight": (3, 2),
    "sam.mask_decoder.iou_token.weight": (1, 7),
    "fusion.weight": (11,),
}


def save_checkpoint(folder, **options):
    config = CfSamConfig(id2label={1: "epithelial", 2: "stromal"}, type_colors=["#ff0000", "#00ff00"], **options)
    config.save_pretrained(folder)
    save_file({n: np.zeros(shape, np.float16) for n, shape in WEIGHTS.items()}, folder / "model.safetensors")
    return folder


def info(capsys, *arguments):
    status = cli.main(["info", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_a_slide_is_described(tmp_path, capsys):
    options = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "a.svs", np.zeros((64, 96, 3), np.uint8), photometric="rgb", tile=(32, 32), **options)
    status, out, err = info(capsys, tmp_path / "a.svs", "--json")
    record = json.loads(out)
    assert (status, err) == (0, "")
    assert record["size"] == [96, 64]
    assert record["pixel_size"] == {"x": 0.5, "y": 0.5, "source": "TIFF resolution"}
    status, out, _ = info(capsys, tmp_path / "a.svs")
    assert status == 0
    assert "0.5 x 0.5 micrometres (TIFF resolution)" in out


def test_json_tells_everything(tmp_path, capsys):
    save_checkpoint(tmp_path, checkpoint_info=INFO, mpp=0.5)
    status, out, err = info(capsys, tmp_path, "--json")
    record = json.loads(out)
    assert (status, err) == (0, "")
    assert record["name"] == "cfsam-test"
    assert record["mpp"] == 0.5
    assert record["types"] == [
        {"id": 1, "name": "epithelial", "color": "#ff0000"},
        {"id": 2, "name": "stromal", "color": "#00ff00"},
    ]
    assert record["license"] == {
        "weights": "CC-BY-NC-SA-4.0",
        "weights_note": "For research only.",
        "code": "Apache-2.0",
    }
    assert record["data"] == INFO["data"]
    assert record["metrics"] == INFO["metrics"]
    assert record["parameters"] == {
        "SAM encoder": 20, "MALA adapters": 6, "SAM mask decoder": 7, "fusion": 11, "total": 44,
    }  # fmt: skip
    assert record["architecture"]["mala"]["kernel_sizes"] == [3, 5, 7]
    assert record["more"] == {"seed": 7}


def test_text_says_the_same(tmp_path, capsys):
    save_checkpoint(tmp_path, checkpoint_info=INFO)
    status, out, _ = info(capsys, tmp_path)
    assert status == 0
    for words in (
        "cfsam-test", "A model for testing.", str(tmp_path), "0.25 µm per pixel", "1 epithelial #ff0000", "12 layers",
        "Parameters   44", "6  MALA adapters", "- name: CoNSeP", "license: research only", "PQ: 0.4321",
        "AJI: not stated", "weights: CC-BY-NC-SA-4.0", "For research only.", "code (cfsam_hf): Apache-2.0", "seed: 7",
    ):  # fmt: skip
        assert words in out, words


def test_what_is_not_stated_is_said_so(tmp_path, capsys):
    save_checkpoint(tmp_path, use_mala=False, use_bgmr=False, use_hmfm=False)
    _, out, _ = info(capsys, tmp_path)
    assert "weights: not stated" in out
    assert out.count(" off") == 3
    assert out.count("not stated") == 5


def test_the_bundled_checkpoint_states_its_licence_and_types(capsys):
    status, out, _ = info(capsys, "--json")
    record = json.loads(out)
    assert status == 0
    assert record["license"]["weights"]
    assert record["types"]
    assert record["data"]
    assert record["metrics"]
    assert 1e6 < record["parameters"]["total"] <= 7.5e6
    # Counted from the file's header alone, and the same as of the model.
    model = CfSamForNucleiSegmentation.from_pretrained(bundled_checkpoint())
    assert record["parameters"]["total"] == model.num_parameters()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda folder: SamConfig().save_pretrained(folder),
            "type sam; a CF-SAM checkpoint is needed, which",
        ),
        (lambda folder: folder.mkdir(), "config.json"),
        (lambda folder: save_checkpoint(folder).joinpath("model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: save_checkpoint(folder).joinpath("model.safetensors").write_bytes(b"\x10"), "damaged"),
        (lambda folder: save_checkpoint(folder).joinpath("config.json").write_text("{"), "config.json"),
        (lambda folder: None, "no such checkpoint folder"),
        (lambda folder: folder.write_text("no picture"), "not an image"),
    ],
    ids=["sam", "empty folder", "no weights", "cut weights", "bad json", "nowhere", "file"],
)
def test_what_is_no_checkpoint_is_told_in_a_line(make, words, tmp_path, capsys):
    make(tmp_path / "c")
    status, out, err = info(capsys, tmp_path / "c")
    assert (status, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_parts_are_named_for_readers():
    assert part_of("sam.shared_image_embedding.positional_embedding") == "SAM, other"
    assert part_of("refinement.head.weight") == "refinement"


def test_untyped_checkpoints_have_no_types(tmp_path):
    save_checkpoint(tmp_path)
    CfSamConfig(num_types=0).save_pretrained(tmp_path)
    assert describe_checkpoint(str(tmp_path))["types"] == []


def test_hub_ids_are_left_to_the_hub():
    assert resolve_checkpoint("owner/name") == "owner/name"
    assert resolve_checkpoint("name") == "name"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_devices_that_are_not_there_are_told(device):
    with pytest.raises(ValueError, match=f"--device {device}"):
        resolve_device(device)


def test_the_cpu_is_always_there():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device(None) in ("cpu", "cuda", "mps")
