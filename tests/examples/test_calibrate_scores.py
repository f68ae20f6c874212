"""Why: `calibrate_scores.py` must turn scores into probabilities that loading the checkpoint then uses."""

import json

import numpy as np
import pytest
from PIL import Image

from cfsam_hf import CfSamImageProcessor, CfSamProcessor, NucleiSegmentationPipeline
from cfsam_hf.model.scores import ScoreWeights

from ..evaluation_cases import write_tiles
from ..painted_model import PaintedModel, paint, painted_config
from ..tiny import SIZE


def painted_pipe(processor):
    return NucleiSegmentationPipeline(PaintedModel(painted_config()), image_processor=processor, device="cpu")


def test_scores_become_the_share_of_true_nuclei(tmp_path, run_example, capsys):
    # The model is sure of all nuclei; in this truth those of type 2, of which it is a little less sure, are none.
    tiles = write_tiles(tmp_path / "tiles")
    for path in tiles.glob("*_types.png"):
        instances = path.with_name(path.name.replace("_types", "_instances"))
        kept = np.where(np.array(Image.open(path)) == 1, np.array(Image.open(instances)), 0)
        Image.fromarray(kept.astype(np.uint16)).save(instances)
        path.unlink()
    split = {"dataset": "painted", "train": ["tile0", "tile1", "tile2"], "validation": ["tile3"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    checkpoint = tmp_path / "checkpoint"
    decoding = {"minimum_area": 25, "minimum_score": 0.5, "score_weights": {"intercept": 9.0}}
    processor = CfSamImageProcessor(tile_size=64, tile_overlap=32, decoding=decoding)
    CfSamProcessor(processor).save_pretrained(checkpoint)
    run_example(
        "tools/calibrate_scores",
        *("--checkpoint", str(checkpoint), "--tiles", "3"),
        *("--data", f"reader=instance_pairs,path={tiles},split={tmp_path / 'split.json'}"),
        load_pipeline=lambda folder, device: painted_pipe(CfSamImageProcessor.from_pretrained(folder)),
    )
    printed = capsys.readouterr().out
    assert "painted: tile0, tile1, tile2" in printed
    before, after = (
        [cell.strip() for cell in line.split("|")] for line in printed.splitlines() if "painted |" in line
    )
    assert (before[2], after[2], before[3]) == ("before", "after", after[3])
    assert float(before[5]) > 0.25
    assert float(after[5]) < 0.5 * float(before[5])
    # All true nuclei are found, and are kept at .9.
    assert float(before[8]) == float(after[8]) == 1
    loaded = CfSamImageProcessor.from_pretrained(checkpoint)
    assert loaded.tile_size == 64
    chosen = loaded.decoding_parameters()
    assert f"{chosen.score_weights}, minimum_score {chosen.minimum_score} -> {checkpoint}" in printed
    assert (chosen.minimum_area, chosen.minimum_score > 0) == (25, True)
    image, _, types = paint(96, 96, count=10, seed=3)
    scores = painted_pipe(loaded)(image, mpp=0.25, decoding={"minimum_score": 0.0}).table["score"]
    raw = painted_pipe(CfSamImageProcessor(tile_size=64, tile_overlap=32))(image, mpp=0.25).table["score"]
    assert raw.min() > 0.9
    assert scores[types == 1].min() > 0.9
    assert scores[types == 2].max() < 0.5


def test_a_checkpoint_from_its_folder(training_root, run_example, capsys):
    checkpoint = training_root / "base"
    # All that the random weights give is taken for nuclei.
    decoding = {"nuclei_threshold": 0.01, "marker_threshold": 0.01, "minimum_area": 1}
    processor = CfSamImageProcessor(tile_size=SIZE, tile_overlap=16, decoding=decoding)
    CfSamProcessor(processor).save_pretrained(checkpoint)
    others = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.name != "processor_config.json"}
    data = f"reader=instance_pairs,path={training_root / 'pairs'},split={training_root / 'split.json'}"
    run_example("tools/calibrate_scores", "--checkpoint", str(checkpoint), "--tiles", "2", "--data", data)
    assert "| after |" in capsys.readouterr().out
    loaded = CfSamImageProcessor.from_pretrained(checkpoint)
    assert loaded.decoding_parameters().score_weights != ScoreWeights()
    assert {name: loaded.decoding[name] for name in decoding} == decoding
    assert {name: (checkpoint / name).read_bytes() for name in others} == others
    with pytest.raises(ValueError, match="at least two tiles"):
        run_example("tools/calibrate_scores", "--checkpoint", str(checkpoint), "--tiles", "1", "--data", data)
