"""Why: refinement is judged on one network, each reading decoded with its own thresholds."""

import json

import numpy as np
import pytest

from cfsam_hf import CfSamImageProcessor, CfSamProcessor
from cfsam_hf.evaluation import decoding_search

from ..tiny import SIZE, tiny_test_model


@pytest.fixture
def arguments(training_root):
    """Of the script, for a checkpoint and tiles in `training_root`."""
    folder = training_root / "base"
    CfSamProcessor(CfSamImageProcessor(tile_size=SIZE, tile_overlap=16)).save_pretrained(folder)
    item = f"reader=instance_pairs,path={training_root / 'pairs'},split={training_root / 'split.json'}"
    return ["--checkpoint", str(folder), "--data", item, "--tiles", "1", "--output_dir", str(training_root / "out")]


def test_every_reading_is_scored_with_its_own_thresholds(arguments, training_root, run_example, monkeypatch):
    monkeypatch.setattr(decoding_search, "GRID", {"boundary_weight": (0.25,), "lone_jump_weight": (0.75,)})
    # Whatever changes is better.
    monkeypatch.setattr(
        decoding_search, "quality", lambda cases, p: -p.boundary_weight - p.lone_jump_weight + len(list(cases))
    )
    run_example("studies/refinement", *arguments)
    record = json.loads((training_root / "out" / "refinement.json").read_text())
    assert record["format"] == "cfsam_hf refinement 1"
    readings = record["readings"]
    assert len(readings) == 4
    for name, of in readings.items():
        alone = name.endswith("alone")
        assert of["decoding"]["lone_jump_weight"] == (0.75 if alone else 3.0)
        assert of["decoding"]["boundary_weight"] == (1.0 if alone else 0.25)
        [scores] = of["scores"].values()
        assert set(scores) == {"pq", "dq", "sq", "aji"}
    text = (training_root / "out" / "refinement.md").read_text()
    assert all(f"| {name} |" in text for name in readings)


def test_readings_share_the_boundary_map_and_differ_in_their_masks(arguments, load_example, training_root):
    module = load_example("studies/refinement")
    pipe = module.load_pipeline(arguments[1], None)
    # A new head adds nothing: refined and initial maps would be the same.
    pipe.model.refinement.head[1].bias.data.fill_(0.7)
    tile = next(iter(module.tuning_tiles([arguments[3]], 1).values()))[0].load()
    found = module.read_maps(pipe, tile)
    refined, initial, refined_alone, initial_alone = (found[name][0] for name in module.READINGS)
    assert all(np.array_equal(truth, tile.instance_map) for _, truth in found.values())
    assert refined_alone.boundary is initial_alone.boundary is None
    np.testing.assert_array_equal(refined.boundary, initial.boundary)
    assert not np.allclose(refined.nuclei, initial.nuclei)
    np.testing.assert_array_equal(refined.nuclei, refined_alone.nuclei)
    np.testing.assert_array_equal(initial.nuclei, initial_alone.nuclei)


def test_a_model_without_refinement_is_refused(arguments, training_root, run_example):
    tiny_test_model(num_types=0, use_bgmr=False).save_pretrained(training_root / "base")
    with pytest.raises(ValueError, match="base has no boundary-guided refinement"):
        run_example("studies/refinement", *arguments)
