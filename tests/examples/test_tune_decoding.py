"""Why: loading a checkpoint must use what `tune_decoding.py` has chosen."""

import pytest

from cfsam_hf import CfSamImageProcessor, CfSamProcessor
from cfsam_hf.evaluation import decoding_search

from ..tiny import SIZE


def test_the_decoding_search_writes_what_loading_reads(training_root, run_example, monkeypatch):
    checkpoint = training_root / "base"
    CfSamProcessor(CfSamImageProcessor(tile_size=SIZE, tile_overlap=16)).save_pretrained(checkpoint)
    monkeypatch.setattr(decoding_search, "GRID", {"minimum_area": (1007, 1013)})
    # The larger the better, whatever the nuclei.
    monkeypatch.setattr(decoding_search, "quality", lambda cases, parameters: parameters.minimum_area)
    run_example(
        "tools/tune_decoding",
        *("--checkpoint", str(checkpoint), "--tiles", "1", "--rounds", "1"),
        *("--data", f"reader=instance_pairs,path={training_root / 'pairs'},split={training_root / 'split.json'}"),
    )
    assert CfSamImageProcessor.from_pretrained(checkpoint).decoding_parameters().minimum_area == 1013
    assert CfSamProcessor.from_pretrained(checkpoint).image_processor.tile_size == SIZE


def test_a_damaged_checkpoint_is_named_in_a_sentence(training_root, run_example):
    weights = training_root / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    data = f"reader=instance_pairs,path={training_root / 'pairs'},split={training_root / 'split.json'}"
    with pytest.raises(OSError, match=r"base: its safetensors file is damaged or cut short"):
        run_example("tools/tune_decoding", "--checkpoint", str(training_root / "base"), "--data", data)
