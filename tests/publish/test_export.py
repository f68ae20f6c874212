"""Why: an exported folder must load anywhere, with and without this package, and give identical outputs."""

import ast
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig
from transformers import AutoConfig, AutoModel, AutoModelForImageSegmentation, AutoProcessor, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_imports
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import cfsam_hf
from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor, bundled_checkpoint
from cfsam_hf.commands.terminal import main
from cfsam_hf.files.atomic import atomic_folder
from cfsam_hf.publish import check_folder, export_for_hub
from cfsam_hf.publish.card import checkpoint_card

from ..hub_server import USER, put_folder, readable_hub
from ..publish_cases import run_clean, tissue_image
from ..sam_cases import SIZES, tiny_sam
from ..tiny import tiny_test_model

PACKAGE = Path(cfsam_hf.__file__).parent


@pytest.fixture
def image() -> np.ndarray:
    return tissue_image()


@pytest.fixture
def no_questions(monkeypatch):
    """transformers asks for trust through `input`; here that is an error."""

    def refuse(prompt=""):
        raise AssertionError(f"asked: {prompt}")

    monkeypatch.setattr("builtins.input", refuse)


def expected_outputs(image: np.ndarray) -> dict:
    """The same with this package's own classes on the bundled checkpoint."""
    folder = bundled_checkpoint()
    model = CfSamForNucleiSegmentation.from_pretrained(folder)
    image_processor = CfSamImageProcessor.from_pretrained(folder)
    inputs = image_processor(images=image, return_tensors="pt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            outputs = model(**inputs)
        result = pipeline("nuclei-segmentation", model=str(folder))(image, mpp=0.25)
    finally:
        torch.set_num_threads(threads)
    [decoded] = image_processor.post_process_nuclei(outputs, target_sizes=[image.shape[:2]])
    return {
        "pixel_values": inputs["pixel_values"].numpy(),
        "nuclei_logits": outputs.nuclei_logits.numpy(),
        "type_logits": outputs.type_logits.numpy(),
        "instance_map": result.instance_map,
        "scores": result.table["score"].to_numpy(),
        "types": result.table["type"].to_numpy(),
        "decoded_map": decoded.instance_map,
    }


def test_a_process_without_the_package_gets_the_very_same_nuclei(exported_checkpoint, image, tmp_path):
    found = run_clean(str(exported_checkpoint), image, tmp_path, str(tmp_path / "copy"))
    expected = expected_outputs(image)
    assert expected["instance_map"].max() > 10
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        assert np.array_equal(found[name], values), name
    config = CfSamForNucleiSegmentation.config_class.from_pretrained(bundled_checkpoint())
    assert found["id2label"].tolist() == [f"{i}:{name}" for i, name in config.id2label.items()]
    assert found["type_colors"].tolist() == config.type_colors
    assert str(found["version"]) == cfsam_hf.__version__
    # What was loaded as remote code and saved again keeps its code, and names it.
    copy = tmp_path / "copy"
    for file in exported_checkpoint.glob("*.py"):
        if file.name != "handler.py":
            assert (copy / file.name).read_bytes() == file.read_bytes()
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (exported_checkpoint, copy))
    assert theirs == ours
    assert json.loads((copy / "processor_config.json").read_text())["auto_map"]


@pytest.mark.slow
def test_what_was_loaded_as_remote_code_and_saved_again_loads_again(exported_checkpoint, image, tmp_path):
    first = run_clean(str(exported_checkpoint), image, tmp_path, str(tmp_path / "copy"))
    second = run_clean(str(tmp_path / "copy"), image, tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("trust", [None, False, True])
def test_with_the_package_its_own_classes_serve_and_no_trust_is_asked(exported_checkpoint, image, trust, no_questions):
    options = {} if trust is None else {"trust_remote_code": trust}
    path = str(exported_checkpoint)
    loaded = [
        AutoConfig.from_pretrained(path, **options),
        AutoModel.from_pretrained(path, **options),
        AutoModelForImageSegmentation.from_pretrained(path, **options),
        AutoImageProcessor.from_pretrained(path, **options),
        AutoProcessor.from_pretrained(path, **options),
        pipeline("nuclei-segmentation", model=path, **options),
        pipeline("image-segmentation", model=path, **options),
    ]
    own = [type(value).__module__.partition(".")[0] for value in loaded]
    assert own == ["cfsam_hf"] * 6 + ["transformers"]
    assert type(loaded[-1].model).__module__ == "cfsam_hf.model.modeling_cfsam"


def test_a_saved_pipeline_loads_without_trust(tmp_path, image, no_questions):
    pipe = pipeline("nuclei-segmentation", model=str(bundled_checkpoint()))
    pipe.save_pretrained(tmp_path)
    assert "custom_pipelines" in json.loads((tmp_path / "config.json").read_text())
    again = pipeline("nuclei-segmentation", model=str(tmp_path))
    assert type(again) is type(pipe)
    tile = image[:64, :64]
    assert np.array_equal(again(tile, mpp=0.25).instance_map, pipe(tile, mpp=0.25).instance_map)


def test_the_folder_is_whole(exported_checkpoint):
    names = {path.name for path in exported_checkpoint.iterdir()}
    shipped = {path.name for path in (PACKAGE / "model").glob("*.py")} - {"__init__.py"}
    others = {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "handler.py",
        "requirements.txt",
        "README.md",
    }
    assert names == shipped | others
    check_folder(exported_checkpoint)
    config = json.loads((exported_checkpoint / "config.json").read_text())
    assert config["id2label"]["3"] == "epithelial"
    assert len(config["type_colors"]) == 4
    assert config["mpp"] == 0.25
    assert {"data", "training", "license", "metrics"} <= set(config["checkpoint_info"])
    # Readable for whoever the folder's other files are readable for.
    assert len({path.stat().st_mode for path in exported_checkpoint.iterdir()}) == 1


def imports_of(file: Path) -> set[str]:
    """All modules that a file imports, also those that transformers passes over, in functions and `try` blocks."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def test_the_requirements_are_what_the_code_imports(exported_checkpoint):
    lines = (exported_checkpoint / "requirements.txt").read_text().splitlines()
    files = list(exported_checkpoint.glob("*.py"))
    name_of = {"cv2": "opencv-python-headless", "PIL": "pillow"}
    modules = {name_of.get(module, module) for file in files for module in imports_of(file)}
    # The codecs of tifffile, without which most slides cannot be decoded; nothing names them.
    assert {line.partition(">")[0] for line in lines} == modules | {"imagecodecs"}
    assert {module for file in files for module in get_imports(file)} - set(sys.stdlib_module_names) == {
        module for file in files for module in imports_of(file)
    }
    # Each line is one of the package's own requirements.
    declared = (PACKAGE.parent / "setup.cfg").read_text().split()
    assert all(line.partition(">")[0] in "".join(declared) for line in lines)


def test_shipped_code_imports_nothing_but_its_siblings_and_libraries(exported_checkpoint):
    for file in exported_checkpoint.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, file
                assert (exported_checkpoint / f"{node.module}.py").is_file(), (file, node.module)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not any(name.startswith("cfsam_hf") for name in names), file


def test_weights_are_halved_only_where_nothing_is_lost(exported_checkpoint, tmp_path):
    stored, exact = (folder / "model.safetensors" for folder in (bundled_checkpoint(), exported_checkpoint))
    assert exact.stat().st_size < 1.01 * stored.stat().st_size
    model = tiny_test_model()
    folder = export_for_hub(
        model, tmp_path / "model", image_processor=CfSamImageProcessor(tile_size=64, tile_overlap=0)
    )
    loaded = CfSamForNucleiSegmentation.from_pretrained(folder)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert CfSamImageProcessor.from_pretrained(folder).tile_size == 64


def test_outputs_do_not_depend_on_how_the_file_is_laid_out(exported_checkpoint, image, tmp_path):
    model = CfSamForNucleiSegmentation.from_pretrained(exported_checkpoint)
    # In float32, and so used where the file is mapped to; in the other the weights lie where torch put them.
    model.save_pretrained(tmp_path)
    inputs = CfSamImageProcessor.from_pretrained(exported_checkpoint)(images=image[:64, :64], return_tensors="pt")
    with torch.inference_mode():
        first, second = (m(**inputs) for m in (model, CfSamForNucleiSegmentation.from_pretrained(tmp_path)))
    assert torch.equal(first.nuclei_logits, second.nuclei_logits)


def test_a_model_of_remote_classes_is_exported_as_well(exported_checkpoint, tmp_path):
    kind = get_class_from_dynamic_module("modeling_cfsam.CfSamForNucleiSegmentation", str(exported_checkpoint))
    assert kind is not CfSamForNucleiSegmentation
    processors = get_class_from_dynamic_module("image_processing_cfsam.CfSamImageProcessor", str(exported_checkpoint))
    model = kind.from_pretrained(exported_checkpoint)
    folder = export_for_hub(model, tmp_path / "again", image_processor=processors.from_pretrained(exported_checkpoint))
    assert {p.name for p in folder.iterdir()} == {p.name for p in exported_checkpoint.iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (exported_checkpoint / "model.safetensors").read_bytes()
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (exported_checkpoint, folder))
    assert theirs == ours
    # The card came along with the source's folder.
    assert (folder / "README.md").read_text() == (exported_checkpoint / "README.md").read_text()


def test_the_bundled_checkpoint_takes_its_own_card_along(exported_checkpoint):
    card = (bundled_checkpoint() / "README.md").read_text(encoding="utf-8")
    assert (exported_checkpoint / "README.md").read_text(encoding="utf-8") == card


def test_a_checkpoint_of_the_hub_takes_its_own_card_along(tmp_path, monkeypatch):
    text = "---\nlicense: mit\n---\n\n# Of the Hub\n"
    tiny_test_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(text)
    options = {"image_processor": CfSamImageProcessor(tile_size=64, tile_overlap=0)}
    with readable_hub(monkeypatch, tmp_path / "cache") as hub:
        put_folder(hub, f"{USER}/nuclei", tmp_path / "model")
        model = CfSamForNucleiSegmentation.from_pretrained(f"{USER}/nuclei")
        folder = export_for_hub(model, tmp_path / "out", **options)
    assert (folder / "README.md").read_text() == text


def test_a_card_of_the_base_is_not_that_of_an_adapter_or_of_new_heads(tmp_path):
    base = tmp_path / "sam"
    tiny_sam().save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: mit\n---\n\n# SAM\n")
    on_sam = CfSamForNucleiSegmentation.from_pretrained(base, **SIZES)
    on_sam.save_pretrained(tmp_path / "whole")
    shutil.copy(base / "README.md", tmp_path / "whole")
    CfSamForNucleiSegmentation.from_pretrained(tmp_path / "whole").save_adapter(tmp_path / "adapter")
    adapted = CfSamForNucleiSegmentation.from_adapter(tmp_path / "adapter")
    processor = CfSamImageProcessor(tile_size=64, tile_overlap=0)
    for number, model in enumerate((on_sam, adapted)):
        folder = export_for_hub(model, tmp_path / f"out{number}", image_processor=processor)
        assert "# SAM" not in (folder / "README.md").read_text()


def test_the_card_made_of_the_configuration_has_its_figures_and_its_warning():
    config = CfSamForNucleiSegmentation.config_class.from_pretrained(bundled_checkpoint())
    card, info = checkpoint_card(config), config.checkpoint_info
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.library_name == "transformers"
    assert card.data.license == "other"
    assert "nc-sa" in card.data.license_name
    figures = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert figures == {(d, name): value for d, scores in info["metrics"].items() for name, value in scores.items()}
    assert "**diagnosis**" in card.text
    for line in (*info["data"], *info["limits"], info["license"], *map(str, info["training"].values())):
        assert line in card.text


def test_a_checkpoint_that_says_nothing_gets_a_card_without_inventions(tmp_path):
    model = tiny_test_model(num_types=0)
    folder = export_for_hub(
        model, tmp_path / "model", image_processor=CfSamImageProcessor(tile_size=64, tile_overlap=0)
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.license is None
    assert card.data.eval_results is None
    # No table of figures, and no list of data or training.
    assert not any(line.startswith(("|", "- ")) for line in card.text.splitlines())
    with pytest.raises(ValueError, match=r"README\.md does not state license"):
        check_folder(folder)


def test_a_given_card_is_taken(tmp_path):
    text = "---\nlicense: mit\nlibrary_name: transformers\npipeline_tag: image-segmentation\n---\n\n# Mine\n"
    (tmp_path / "card.md").write_text(text)
    folder = export_for_hub(tiny_test_model(), tmp_path / "model", card=tmp_path / "card.md")
    assert (folder / "README.md").read_text() == text
    check_folder(folder)


def test_only_an_older_export_is_replaced_and_only_when_asked(tmp_path):
    folder = tmp_path / "model"
    export_for_hub(tiny_test_model(0), folder)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="overwrite"):
        export_for_hub(tiny_test_model(1), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    export_for_hub(tiny_test_model(1), folder, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() != before
    # Nothing that a user put there is deleted.
    (folder / "note.txt").write_text("of the first")
    (folder / ".git").mkdir()
    (folder / "notes").symlink_to("note.txt")
    with pytest.raises(ValueError, match=r"\.git, note\.txt, notes"):
        export_for_hub(tiny_test_model(1), folder, overwrite=True)
    assert (folder / "note.txt").read_text() == "of the first"
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="not an exported checkpoint"):
        export_for_hub(tiny_test_model(1), home, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        export_for_hub(tiny_test_model(1), home / "thesis.txt", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "model"]


def test_nothing_remains_of_an_export_that_fails(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    export_for_hub(tiny_test_model(0), folder)
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("cfsam_hf.publish.export.check_folder", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_for_hub(tiny_test_model(1), folder, overwrite=True)
    with pytest.raises(ZeroDivisionError):
        export_for_hub(tiny_test_model(1), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "model.safetensors").read_bytes() == before


def test_layers_of_peft_are_not_exported_under_the_models_name(tmp_path):
    model = tiny_test_model()
    model.add_adapter(LoraConfig(target_modules=["qkv"], r=2), "lora")
    with pytest.raises(ValueError, match="PEFT"):
        export_for_hub(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_put_in_place_as_a_whole(tmp_path):
    with atomic_folder(tmp_path / "deep" / "folder") as stage:
        (stage / "a").write_text("1")
        assert not (tmp_path / "deep" / "folder").exists()
    with atomic_folder(tmp_path / "deep" / "folder") as stage:
        (stage / "b").write_text("2")
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]


def test_the_command(tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", str(bundled_checkpoint()), str(folder)]) == 0
    assert f"-> {folder}" in capsys.readouterr().out
    check_folder(folder)
    assert main(["export", str(bundled_checkpoint()), str(folder)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), str(folder)]) == 1
    assert "no such checkpoint folder" in capsys.readouterr().err
    assert main(["export", str(bundled_checkpoint()), str(folder), "--overwrite", "--card", "no.md"]) == 1
    assert "no.md" in capsys.readouterr().err
    check_folder(folder)
