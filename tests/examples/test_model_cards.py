"""Why: a card must say what a stranger needs, and every figure in it must equal the measured one."""

import hashlib
import json
import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from cfsam_hf import CfSamConfig, CfSamImageProcessor, bundled_checkpoint
from cfsam_hf.bases.bundled import bundled_names
from cfsam_hf.publish import check_folder, export_for_hub
from cfsam_hf.publish.card import card_metadata, checkpoint_card

from .. import REPOSITORY
from ..tiny import tiny_test_config

CARDS = REPOSITORY / "model_cards"
NAMES = {"consep": "CoNSeP", "monuseg": "MoNuSeg", "nuinsseg": "NuInsSeg", "tnbc": "TNBC"}
NUMBER = re.compile(r"(?<![\w.-])\d\.\d{3}(?![\w.])")


@pytest.fixture(params=bundled_names())
def name(request) -> str:
    """Each shipped checkpoint in turn."""
    return request.param


@pytest.fixture
def results(name) -> dict[str, dict]:
    """Scores by data set, as they were measured on the shipped file."""
    record = json.loads((CARDS / name / "results.json").read_text())
    return {dataset: result["scores"] for dataset, result in record["results"].items()}


@pytest.fixture
def card(name) -> ModelCard:
    return ModelCard.load(CARDS / name / "README.md")


def test_every_shipped_checkpoint_has_a_card_with_results_and_template(name):
    names = {path.name for path in (CARDS / name).iterdir()}
    assert {"README.md", "card.md.jinja", "results.json"} <= names


def test_the_metadata_name_the_licence_that_follows_from_the_data():
    data = ModelCard.load(CARDS / "cfsam-tiny" / "README.md").data
    assert data.license == "other"
    assert data.license_name
    assert data.license_link.startswith("https://creativecommons.org/licenses/by-nc-sa/")
    assert {"consep", "monuseg"} <= set(data.datasets)
    data = ModelCard.load(CARDS / "cfsam-tiny-open" / "README.md").data
    assert data.license == "cc-by-4.0"
    assert set(data.datasets) == {"nuinsseg", "tnbc", "bbbc038"}


def test_the_metadata_is_complete_and_of_the_hubs_form(card):
    data = card.data
    assert data.pipeline_tag == "image-segmentation"
    assert data.library_name == "transformers"
    assert data.widget[0]["src"].startswith("https://")
    assert data.widget[0]["example_title"]
    # Trained from random weights: a base would be an invention.
    assert data.base_model is None
    index = eval_results_to_model_index(data.model_name, data.eval_results)
    assert index == data.to_dict()["model-index"]


def test_the_results_are_of_the_shipped_weights(name):
    folder = bundled_checkpoint(name)
    system = json.loads((CARDS / name / "results.json").read_text())["system"]
    assert system["checkpoint"] == name
    assert system["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    decoding = CfSamImageProcessor.from_pretrained(folder).decoding_parameters()
    assert system["decoding"] == decoding.to_dict()


def test_the_figures_of_the_metadata_are_those_measured(card, results):
    stated = {(r.dataset_type, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert stated == {key: round(results[key[0]][key[1]], 4) for key in stated}
    assert {dataset for dataset, _ in stated} == set(results)
    assert {"dice_mean_over_images", "aji_mean_over_images", "pq_mean_over_images"} <= {name for _, name in stated}


def numbers_in(value) -> list[float]:
    """All floats of a JSON value."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in numbers_in(part)]
    return [value] if isinstance(value, float) else []


def test_every_figure_of_the_text_stands_in_a_results_file(name, card, results):
    folder = CARDS / name
    measured = set()
    for file in folder.glob("results*.json"):
        record = json.loads(file.read_text())
        for result in record["results"].values():
            groups = (result, *result.get("tissues", {}).values())
            measured |= {f"{v:.3f}" for group in groups for v in group["scores"].values() if v is not None}
    for file in ("ablation.json", "refinement.json", "robustness.json"):
        if (folder / file).is_file():
            measured |= {f"{value:.3f}" for value in numbers_in(json.loads((folder / file).read_text()))}
    # The settings of decoding are no scores; they are compared with the shipped ones.
    figures = NUMBER.findall(re.sub(r"^Decoding parameters, .*$", "", card.text, flags=re.MULTILINE))
    assert len(figures) > 40
    assert set(figures) <= measured
    # And the rows of the shipped file in particular, in their order.
    for dataset, scores in results.items():
        titles = {f"| {title} | {scores['images']} |" for title in (NAMES[dataset], f"{NAMES[dataset]}, {name}")}
        row = next(line for line in card.text.splitlines() if line.startswith(tuple(titles)))
        keys = ("dice", "aji", "dq", "sq", "pq")
        expected = [*(scores[f"{key}_mean_over_images"] for key in keys), scores["detection_f1_pooled"]]
        assert NUMBER.findall(row) == [f"{value:.3f}" for value in expected]
        assert f"{scores['true_nuclei']:,}" in row


def test_no_figure_is_typed_into_a_template():
    for template in CARDS.glob("*/*.jinja"):
        assert NUMBER.findall(template.read_text()) == []


def test_the_card_is_what_the_script_writes(load_example, name, card, documentation):
    script = load_example("tools/write_card")
    written = script.CARD_MAKERS[name]()
    assert written.content == card.content
    bundled = (bundled_checkpoint(name) / "README.md").read_text(encoding="utf-8")
    assert bundled == script.without_local_pictures(written.content)
    assert script.tiny_tables() in documentation("accuracy")


def test_the_card_in_the_checkpoints_folder_shows_no_picture_that_is_elsewhere(load_example):
    text = "before\n\n![nuclei](example.png)\n\n![far](https://example.org/a.png)\n\nafter, [a link](LICENSE)\n"
    kept = "before\n\n![far](https://example.org/a.png)\n\nafter, [a link](LICENSE)\n"
    assert load_example("tools/write_card").without_local_pictures(text) == kept


def test_the_card_has_every_section(card):
    for heading in ("Intended", "Out of scope", "Data", "Licence", "Figures", "Training and compute", "Limits"):
        assert re.search(rf"^##+ {heading}$", card.text, re.MULTILINE), heading


def test_an_export_with_the_card_is_ready_to_be_published(name, tmp_path):
    check_folder(export_for_hub(bundled_checkpoint(name), tmp_path / "out", card=CARDS / name / "README.md"))


def test_metadata_from_a_configuration():
    config = tiny_test_config(
        checkpoint_info={
            "name": "mine",
            "license": "CC BY 4.0",
            "base_model": "facebook/sam-vit-base",
            "datasets": ["pannuke"],
            "metrics": {"pannuke": {"pq_mean_over_images": 0.5}},
        }
    )
    card = checkpoint_card(config)
    assert card.data.license == "cc-by-4.0"
    assert card.data.base_model == "facebook/sam-vit-base"
    assert card.data.datasets == ["pannuke"]
    assert card.data.model_name == "mine"
    assert "`facebook/sam-vit-base`" in card.text
    assert "| pannuke | pq_mean_over_images | 0.5 |" in card.text
    assert card_metadata(config, base_model="other/base").base_model == "other/base"


def test_a_base_that_is_a_folder_is_not_named_to_the_hub():
    config = tiny_test_config(checkpoint_info={"base_model": "/home/me/runs/stage1/model", "license": "mine alone"})
    data = card_metadata(config)
    assert data.base_model is None
    assert (data.license, data.license_name) == ("other", "mine-alone")


def test_the_bundled_configuration_says_what_the_card_says(name, card):
    info = CfSamConfig.from_pretrained(bundled_checkpoint(name)).checkpoint_info
    for line in (*info["data"], *info["limits"], info["license"], info["license_note"]):
        assert line in card.text
