"""Why: a checkpoint that cannot be used must be reported in one sentence with its name and the way out."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageSegmentation,
    BertConfig,
    BertModel,
    PreTrainedModel,
    SamConfig,
    SamModel,
    pipeline,
)

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor
from cfsam_hf.bases.compact import save_compact
from cfsam_hf.commands import terminal as cli
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.model.checkpoint import weight_shapes

from ..tiny import tiny_test_config, tiny_test_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A checkpoint that loads."""
    folder = tmp_path_factory.mktemp("checkpoint") / "good"
    save_compact(tiny_test_model(), CfSamImageProcessor(tile_size=64, tile_overlap=16), folder)
    return folder


def cut_weights(share: float):
    def damage(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[: int(share * len(data))])

    return damage


def with_weights(change: Callable[[dict[str, torch.Tensor]], None]):
    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def with_config(**fields):
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | fields))

    return damage


def without(name: str):
    return lambda folder: (folder / name).unlink()


def holding(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def other_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["fusion.level_scores.0.weight"] = torch.zeros(3, 5)


def lose_refinement(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.startswith("refinement.")]:
        del weights[name]


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def bert(folder: Path) -> None:
    shutil.rmtree(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=20, **sizes)).save_pretrained(folder)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@dataclass(frozen=True)
class Bad:
    """What is done to a good checkpoint, and the words of the error; `auto`: transformers finds it before us."""

    damage: Callable[[Path], object]
    words: str
    error: type[Exception] = OSError
    auto: str | None = None


NO_CONFIG = "it has no config.json, or an empty one; a checkpoint is a folder with this file"
NO_JSON = "valid JSON file. Get it again, or repair it"
UNRECOGNIZED = "Unrecognized model"
BAD = {
    "cut short": Bad(cut_weights(0.9), "damaged or cut short; get it again"),
    "cut in the header": Bad(cut_weights(0.001), "damaged or cut short; get it again"),
    "empty weights": Bad(cut_weights(0), "damaged or cut short; get it again"),
    "no weights": Bad(without(WEIGHTS), "it has no model.safetensors; get it again"),
    "pickled weights": Bad(pickled, "pickled .pytorch_model.bin. and are never read.* save_pretrained"),
    "wrong shapes": Bad(
        with_weights(other_shape),
        r"1 of its weights do not fit; fusion.level_scores.0.weight is \(3, 5\) instead of .*\. Pass the config",
        ValueError,
    ),
    "weights missing": Bad(with_weights(lose_refinement), "22 of the weights .* such as refinement.*; get it again"),
    "no config": Bad(without("config.json"), NO_CONFIG, auto=UNRECOGNIZED),
    "empty folder": Bad(emptied, NO_CONFIG, auto=UNRECOGNIZED),
    "a list for a config": Bad(holding("config.json", b"[]"), NO_CONFIG, auto=UNRECOGNIZED),
    "broken config": Bad(holding("config.json", b'{"model_type": "cfsam",'), NO_JSON, auto="valid JSON"),
    "binary config": Bad(holding("config.json", b"\xff\xfe\0"), NO_JSON, auto="valid JSON"),
    "newer format": Bad(
        with_config(format_version=99), "format version 99, newer than .*; upgrade", ValueError, auto="; upgrade"
    ),
    "impossible field": Bad(
        with_config(num_types="many"), "config.json is wrong: .*'num_types'", ValueError, auto="'num_types'"
    ),
    "types that disagree": Bad(
        with_config(num_types=7), "must name the types 1..7", ValueError, auto="must name the types 1..7"
    ),
    "another model": Bad(bert, "model of type bert; a CF-SAM checkpoint is needed", ValueError, auto="BertConfig"),
    "a file": Bad(a_file, "is a file", auto="checkpoint"),
}  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "a.png"
    PIL.Image.new("RGB", (64, 64), (230, 190, 215)).save(path)
    return path


def told_by_the_command(capsys, image: Path, checkpoint, output: Path) -> str:
    """The one line of `cfsam segment`, which fails and writes nothing."""
    arguments = ["segment", str(image), "-o", str(output), "--mpp", "0.25", "--device", "cpu"]
    capsys.readouterr()  # what transformers has logged before
    assert cli.main([*arguments, "--checkpoint", str(checkpoint)]) == cli.EXIT_FAILED
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cfsam: error: ")
    assert not output.exists() or list(output.iterdir()) == []
    return line


@pytest.fixture
def bad(good, tmp_path, request) -> tuple[Path, Bad]:
    folder = tmp_path / "bad checkpoint"
    shutil.copytree(good, folder)
    case = BAD[request.param]
    case.damage(folder)
    return folder, case


@pytest.mark.parametrize("bad", BAD, indirect=True)
def test_a_sentence_with_the_name_and_the_way_out(bad, image, tmp_path, capsys):
    folder, case = bad
    with pytest.raises(case.error, match=case.words) as caught:
        CfSamForNucleiSegmentation.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    for auto in (AutoModel, AutoModelForImageSegmentation) if case.auto != "BertConfig" else ():
        with pytest.raises((OSError, ValueError) if case.auto is None else Exception, match=case.auto or case.words):
            auto.from_pretrained(str(folder))
    line = told_by_the_command(capsys, image, folder, tmp_path / "out")
    assert str(folder) in line
    assert re.search(case.words, line) or re.search(case.auto, line)


@pytest.mark.parametrize("name", ["owner/name-that-is-nowhere", "name-that-is-nowhere", "./nowhere", "/a/b/c"])
def test_what_is_not_there_while_offline(name, image, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=f"{name}.* no such folder"):
        CfSamForNucleiSegmentation.from_pretrained(name)
    assert re.search(f"{name}.* no such .*folder", told_by_the_command(capsys, image, name, tmp_path / "out"))


def nested(section: str, **fields):
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values[section].update(fields)
        (folder / "config.json").write_text(json.dumps(values))

    return damage


HOSTILE = {
    "a million layers": (nested("vision_config", num_hidden_layers=10**6), "vision_config.num_hidden_layers is 10"),
    "layers of the decoder": (nested("mask_decoder_config", num_hidden_layers=10**7), "decoder_config.num_hidden_"),
    "depth of an unused head": (nested("mask_decoder_config", iou_head_depth=10**6), "iou_head_depth is 1000000"),
    "embeddings of prompts": (nested("prompt_encoder_config", num_point_embeddings=10**6), "num_point_embeddings is"),
    "a width": (nested("vision_config", hidden_size=60_000), "values, but its weights hold"),
    "a width in the heads": (with_config(fusion_dim=10**6), "fusion_dim is 1000000, which does not fit"),
    "an image size": (nested("vision_config", image_size=10**9), "vision_config.image_size is 1000000000"),
    "a kernel": (with_config(adapter_kernel_sizes=[3, 100_001]), "values, but its weights hold"),
    "a larger kernel": (with_config(adapter_kernel_sizes=[10**6 + 1]), "adapter_kernel_sizes is 1000001"),
    "a number of 400 digits": (with_config(adapter_dim=10**400), "adapter_dim is 1000000000"),
    "a negative width": (with_config(adapter_dim=-5), "adapter_dim must be positive, got -5"),
    "a negative width of SAM": (nested("mask_decoder_config", mlp_dim=-5), "config.json is wrong: .*negative"),
    "types": (with_config(num_types=10**9, id2label=None, type_colors=None), "num_types is 1000000000"),
    "labels": (with_config(num_labels=10**9), "num_labels is 1000000000"),
    "no heads": (nested("vision_config", num_attention_heads=0), "vision_config.num_attention_heads is 0"),
    "a rate of 0": (nested("mask_decoder_config", attention_downsample_rate=0), "attention_downsample_rate is 0"),
    "an activation": (nested("vision_config", hidden_act="x"), "vision_config.hidden_act is x, an unknown activation"),
    "an activation of the decoder": (nested("mask_decoder_config", hidden_act=[1]), "decoder_config.hidden_act is"),
    "labels in a list": (with_config(id2label=["a", "b"]), "id2label is not an object"),
    "a kernel of the Hub": (with_config(attn_implementation="evil/kernel"), "attn_implementation is evil/kernel; use"),
    "kernels by part": (with_config(_attn_implementation={"": "evil/kernel"}), "_attn_implementation is .*; use one"),
    "a kernel in a part": (nested("vision_config", attn_implementation="e/x"), "attn_implementation is e/x; use"),
    "a part that is a number": (with_config(vision_config=5), "vision_config is 5, not an object"),
    "a part that is a list": (with_config(mask_decoder_config=[1]), r"mask_decoder_config is \[1\], not an object"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_sizes_are_compared_with_the_weights_before_anything_is_made(name, good, tmp_path, monkeypatch):
    damage, words = HOSTILE[name]
    folder = tmp_path / "hostile"
    shutil.copytree(good, folder)
    damage(folder)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *args, **options: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=words) as caught:
        CfSamForNucleiSegmentation.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < len(str(folder)) + 300


def test_sizes_of_a_sam_and_of_a_passed_configuration_are_compared_too(good, tmp_path, monkeypatch):
    parts = {name: getattr(tiny_test_config(), name) for name in ("vision_config", "prompt_encoder_config")}
    SamModel(SamConfig(**parts, mask_decoder_config=tiny_test_config().mask_decoder_config)).save_pretrained(tmp_path)
    nested("vision_config", hidden_size=60_000)(tmp_path)
    shutil.copytree(good, tmp_path / "good")
    nested("vision_config", hidden_size=60_000)(tmp_path / "good")
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *args, **options: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match="but its weights hold"):
        CfSamForNucleiSegmentation.from_pretrained(tmp_path)
    # The Auto classes read the configuration themselves and pass it on.
    for auto in (AutoModel, AutoModelForImageSegmentation):
        with pytest.raises(ValueError, match="but its weights hold"):
            auto.from_pretrained(tmp_path / "good")


def test_shards_count_together_and_a_damaged_index_is_reported(good, tmp_path, monkeypatch):
    model = CfSamForNucleiSegmentation.from_pretrained(good)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert weight_shapes(tmp_path, {}).keys() == weight_shapes(good, {}).keys()
    CfSamForNucleiSegmentation.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(OSError, match=r"its model.safetensors.index.json is damaged; get it again"):
        CfSamForNucleiSegmentation.from_pretrained(tmp_path)


def lora_folder(good: Path, folder: Path) -> Path:
    """What transformers saves of a model with a LoRA: the LoRA alone, and the name of its base."""
    model = CfSamForNucleiSegmentation.from_pretrained(good)
    model.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=r".*encoder\.layers\.\d+\.attn\.qkv"))
    model.save_pretrained(folder)
    assert not (folder / "config.json").exists()
    return folder


def test_an_adapter_of_peft_is_loaded_on_its_base(good, tmp_path):
    folder = lora_folder(good, tmp_path / "lora")
    pixels = torch.rand(1, 3, 64, 64)
    maps = [
        model.eval()(pixels).nuclei_logits
        for model in (
            CfSamForNucleiSegmentation.from_pretrained(folder),
            AutoModelForImageSegmentation.from_pretrained(folder),
            load_pipeline(str(folder), "cpu").model,
            CfSamForNucleiSegmentation.from_pretrained(good),
        )
    ]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[3])
    assert load_pipeline(str(folder), "cpu").image_processor.tile_size == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (holding("adapter_config.json", b"{"), "adapter_config.json is damaged or names no base model"),
        (holding("adapter_config.json", b'{"base_model_name_or_path": null}'), "names no base model; set base_model"),
        (without("adapter_model.safetensors"), "it has no adapter_model.safetensors; pickled weights are never read"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_adapter_of_peft(change, words, good, tmp_path):
    folder = lora_folder(good, tmp_path / "lora")
    change(folder)
    with pytest.raises(OSError, match=words) as caught:
        CfSamForNucleiSegmentation.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def test_pickles_are_not_read_on_request_either(good, tmp_path):
    with pytest.raises(ValueError, match=r"good: use_safetensors=False: .* save them as safetensors"):
        CfSamForNucleiSegmentation.from_pretrained(good, use_safetensors=False)
    shutil.copytree(good, tmp_path / "both")
    evil = {"evil": torch.zeros(1)}
    torch.save(evil, tmp_path / "both" / "pytorch_model.bin")
    CfSamForNucleiSegmentation.from_pretrained(tmp_path / "both")


def test_an_adapter_alone_is_no_checkpoint(good, image, tmp_path, capsys):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(good, base)
    CfSamForNucleiSegmentation.from_pretrained(base).save_adapter(folder)
    with pytest.raises(OSError, match=f"{folder}.*adapter without its base; load it with .*from_adapter"):
        CfSamForNucleiSegmentation.from_pretrained(folder)
    shutil.rmtree(base)
    capsys.readouterr()
    # The command finds the base by the name in the adapter; the way out is the same.
    line = told_by_the_command(capsys, image, folder, tmp_path / "out")
    assert re.search(f"{folder} is an adapter of .*{base}.* which cannot be loaded", line)


def test_a_sam_whose_own_weights_are_not_whole(tmp_path):
    parts = {name: getattr(tiny_test_config(), name) for name in ("vision_config", "prompt_encoder_config")}
    SamModel(SamConfig(**parts, mask_decoder_config=tiny_test_config().mask_decoder_config)).save_pretrained(tmp_path)
    options = {"num_types": 2, "adapter_dim": 8, "fusion_dim": 16}
    CfSamForNucleiSegmentation.from_pretrained(tmp_path, **options)
    weights = load_file(tmp_path / WEIGHTS)
    del weights["vision_encoder.patch_embed.projection.weight"]
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(
        OSError, match=r"1 of the weights .* such as sam\.vision_encoder\.patch_embed\.projection\.weight"
    ):
        CfSamForNucleiSegmentation.from_pretrained(tmp_path, **options)


def test_parts_that_are_asked_for_anew_may_begin_anew(good, tmp_path):
    smaller = CfSamForNucleiSegmentation.from_pretrained(good, use_bgmr=False)
    smaller.save_pretrained(tmp_path)
    model, info = CfSamForNucleiSegmentation.from_pretrained(tmp_path, use_bgmr=True, output_loading_info=True)
    assert model.refinement is not None
    assert all(name.startswith("refinement.") for name in info["missing_keys"])
    with pytest.raises(ValueError, match="ignore_mismatched_sizes=True"):
        CfSamForNucleiSegmentation.from_pretrained(good, num_types=5)
    assert CfSamForNucleiSegmentation.from_pretrained(good, num_types=5, ignore_mismatched_sizes=True).num_maps == 9


def test_a_missing_processor_is_a_warning(good, image, tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    shutil.copytree(good, folder)
    (folder / "processor_config.json").unlink()
    with pytest.raises(OSError, match="checkpoint"):
        AutoImageProcessor.from_pretrained(str(folder))
    with pytest.warns(UserWarning, match=r"checkpoint has no processor_config.json: .*; save its image processor"):
        pipeline("nuclei-segmentation", model=str(folder))
    arguments = ["segment", str(image), "-o", str(tmp_path / "out"), "--mpp", "0.25", "--checkpoint", str(folder)]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cfsam: warning: checkpoint {folder} has no processor_config.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"image_processor": ', "valid JSON file. Get it again"),
        (b'{"image_processor": {"image_processor_type": "CfSamImageProcessor", "tile_size": 0}}', "tile_size"),
        (
            b'{"image_processor": {"image_processor_type": "CfSamImageProcessor", "decoding": {"x": 1}}}',
            "unknown decod",
        ),
    ],
)
def test_a_bad_processor(content, words, good, image, tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    shutil.copytree(good, folder)
    (folder / "processor_config.json").write_bytes(content)
    line = told_by_the_command(capsys, image, folder, tmp_path / "out")
    assert str(folder) in line
    assert words in line


def test_weights_that_are_no_numbers_are_told_with_the_image(good, image, tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    shutil.copytree(good, folder)
    with_weights(lambda weights: weights["fusion.level_scores.0.weight"].fill_(torch.nan))(folder)
    arguments = ["segment", str(image), "-o", str(tmp_path / "out"), "--mpp", "0.25", "--checkpoint", str(folder)]
    assert cli.main([*arguments, "--device", "cpu"]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert "a.png" in first
    assert "not finite" in first
    assert last == "cfsam: 1 of 1 images could not be segmented"
