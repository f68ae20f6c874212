"""Why: the robustness table must hold the scores that were measured, with `cfsam evaluate`'s in the plain row."""

import json

import pytest
from transformers import pipeline

from cfsam_hf import CfSamImageProcessor
from cfsam_hf.data.data_items import DataItem
from cfsam_hf.evaluation import checkpoint_system, evaluate_records, summarize_tiles

from ..evaluation_cases import data_item, write_tiles
from ..painted_model import PaintedModel, painted_config


def painted_pipeline():
    processor = CfSamImageProcessor(tile_size=96, tile_overlap=16)
    return pipeline("nuclei-segmentation", model=PaintedModel(painted_config()).eval(), image_processor=processor)


@pytest.fixture
def run(tmp_path, run_example):
    folder = write_tiles(tmp_path / "tiles")

    def run(*arguments: str) -> tuple[dict, str]:
        run_example(
            "studies/robustness",
            *("--checkpoint", "painted", "--data", data_item(folder), "--output_dir", str(tmp_path / "out")),
            *arguments,
            load_pipeline=lambda checkpoint, device: painted_pipeline(),
            resolve_checkpoint=lambda checkpoint: checkpoint,
        )
        written = tmp_path / "out"
        return json.loads((written / "robustness.json").read_text()), (written / "robustness.md").read_text()

    run.item = data_item(folder)
    return run


def test_conditions_and_transfer(run, tmp_path):
    other = write_tiles(tmp_path / "elsewhere" / "other", count=2)
    transfer = data_item(other, "name=other").replace(f",split={other.parent / 'split.json'}", "")
    record, text = run(
        *("--conditions", "brightness -20 grey values", "magnification"),
        *("--transfer", transfer, "--transfer_groups", "tissue"),
    )
    assert record["format"] == "cfsam_hf robustness 1"
    assert record["system"]["name"] == "painted"
    assert record["environment"]["commit"] is None or len(record["environment"]["commit"]) == 40
    result = record["results"]["painted"]
    assert result["tiles"] == ["tile1", "tile2", "tile3"]
    conditions = result["conditions"]
    assert len(conditions) == 7

    tiles = DataItem.parse(run.item).records("validation")
    expected = summarize_tiles(evaluate_records(tiles, checkpoint_system(painted_pipeline(), "painted")))
    for key, value in conditions["plain"]["scores"].items():
        assert value == pytest.approx(expected[key]), key
    assert conditions["plain"]["less_plain"] == {"pq_mean_over_images": 0, "detection_f1_pooled": 0}
    # The pixel size is that of the model, so passing it makes no difference.
    assert conditions["as scanned, mpp not given"]["scores"] == conditions["plain"]["scores"]
    small, untold = (conditions[f"20x (0.5 um per pixel), mpp {given}given"] for given in ("", "not "))
    assert (small["mpp_given"], untold["mpp_given"]) == (True, False)
    assert small["scores"]["true_nuclei"] == conditions["plain"]["scores"]["true_nuclei"]
    assert small["scores"]["pq_mean_over_images"] != untold["scores"]["pq_mean_over_images"]
    for one in conditions.values():
        difference = one["scores"]["pq_mean_over_images"] - expected["pq_mean_over_images"]
        assert one["less_plain"]["pq_mean_over_images"] == pytest.approx(difference)

    assert list(record["transfer"]) == ["other", "other, Colon", "other, Breast"]
    assert record["transfer"]["other"]["tiles"] == ["tile0", "tile1"]
    assert record["transfer"]["other"]["mpp"] == [0.25]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert f"| plain | {expected['pq_mean_over_images']:.3f} |  |" in rows[1]
    assert sum(line.startswith("| other") for line in rows) == 3


def test_fewer_tiles_and_no_transfer(run):
    record, text = run("--conditions", "blur", "--tiles", "1")
    assert len(record["results"]["painted"]["tiles"]) == 1
    assert record["transfer"] == {}
    assert "transfer" not in text


def test_what_is_not_there_is_told_before_any_work(run):
    with pytest.raises(ValueError, match="no condition 'fog'"):
        run("--conditions", "fog")
    with pytest.raises(ValueError, match="tile tile1 has no 'laboratory' in its index"):
        run("--conditions", "plain", "--transfer", run.item, "--transfer_groups", "laboratory")
