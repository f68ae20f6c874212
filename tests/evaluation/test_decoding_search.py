"""Why: the search for decoding parameters must find known optima and skip parameters without effect."""

from dataclasses import replace

import numpy as np
import pytest

from cfsam_hf import DecodingParameters
from cfsam_hf.data import Tile
from cfsam_hf.evaluation import decoding_search
from cfsam_hf.evaluation.decoding_search import quality, search_decoding, tuning_case
from cfsam_hf.model.maps import NucleiMaps
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.model.scores import ScoreWeights

from ..painted_model import PaintedModel, paint, painted_config


def case(boundary: bool = True) -> tuple[NucleiMaps, np.ndarray]:
    """Two squares with a rim of probability .45, which belongs to them, and a speck of 30 px, which does not."""
    truth = np.zeros((40, 60), np.int32)
    truth[4:16, 4:16], truth[20:32, 30:42] = 1, 2
    nuclei = np.where(truth > 0, 0.45, 0.05).astype(np.float32)
    nuclei[7:13, 7:13] = nuclei[23:29, 33:39] = 0.95
    nuclei[34:39, 2:8] = 0.95
    hv = np.zeros((2, *truth.shape), np.float32)
    return NucleiMaps(nuclei=nuclei, hv=hv, boundary=np.zeros_like(nuclei) if boundary else None), truth


def test_the_search_finds_what_the_maps_need():
    cases = {"made": [case()]}
    start = DecodingParameters()
    assert quality(cases, start) < 0.3
    lines = []
    found, best = search_decoding(cases, start, 2, lines.append)
    assert found.nuclei_threshold < 0.45
    assert found.minimum_area > 30
    assert best == quality(cases, found) == 1.0
    assert lines[0].endswith("at the start (mean of PQ and AJI)")
    assert any(f"minimum_area {found.minimum_area}" in line for line in lines)


def test_scores_are_mean_probabilities_in_the_search():
    calibrated = DecodingParameters(minimum_score=0.4, score_weights=ScoreWeights(intercept=-9.0))
    found, _ = search_decoding({"made": [case()]}, calibrated, 1)
    assert found.score_weights == ScoreWeights()
    assert found == search_decoding({"made": [case()]}, DecodingParameters(), 1)[0]


@pytest.mark.parametrize("boundary", [True, False])
def test_parameters_without_effect_are_not_tried(boundary, monkeypatch):
    tried = []

    def look(cases, parameters):
        tried.append(parameters)
        return 0.0

    monkeypatch.setattr(decoding_search, "quality", look)
    found, _ = search_decoding({"made": [case(boundary)]}, DecodingParameters(), 1)
    assert found == DecodingParameters()
    changed = {
        name for one in tried for name, value in one.to_dict().items() if value != DecodingParameters().to_dict()[name]
    }
    assert ("lone_jump_weight" in changed) != boundary
    assert ("jump_weight" in changed) == ("boundary_weight" in changed) == boundary


def test_data_sets_count_alike_however_many_tiles_they_have():
    maps, truth = case()
    nothing = np.zeros_like(truth)
    nothing[0:2, 50:60] = 1
    parameters = DecodingParameters(nuclei_threshold=0.4, minimum_area=45)
    assert quality({"a": [(maps, truth)] * 3, "b": [(maps, nothing)]}, parameters) == pytest.approx(0.5)


def test_values_that_do_not_go_together_are_left_out(monkeypatch):
    tried = []
    monkeypatch.setattr(decoding_search, "quality", lambda cases, parameters: tried.append(parameters) or 0.0)
    # Cores below the markers' threshold of .5 are refused by the parameters themselves.
    monkeypatch.setattr(decoding_search, "GRID", {"core_threshold": (0.3, 0.6)})
    search_decoding({"made": [case()]}, DecodingParameters(), 1)
    assert [one.core_threshold for one in tried] == [0.8, 0.6]


def test_where_nothing_can_be_scored_nothing_is_chosen():
    maps, truth = case()
    empty = replace(maps, nuclei=np.zeros_like(maps.nuclei))
    with pytest.raises(ValueError, match="a data set among made has no nuclei in its tiles"):
        search_decoding({"made": [(empty, np.zeros_like(truth))]}, DecodingParameters(), 1)


def test_a_case_is_what_is_annotated_in_the_models_pixels():
    image, instance_map, _ = paint(96, 80)
    pipe = NucleiSegmentationPipeline(model=PaintedModel(painted_config()))
    annotated = np.ones(instance_map.shape, bool)
    annotated[:40] = False
    maps, truth = tuning_case(pipe, Tile(image, instance_map, None, "a", mpp=0.25, annotated=annotated))
    assert not maps.nuclei[:40].any()
    assert not truth[:40].any()
    assert np.array_equal(truth[40:], instance_map[40:])
    assert maps.nuclei[40:].max() > 0.9


def test_a_tile_of_another_pixel_size_is_compared_in_the_models_pixels():
    pipe = NucleiSegmentationPipeline(model=PaintedModel(painted_config()))
    fine_image, fine_map, _ = paint(96, 80, scale=2.0)
    annotated = np.ones(fine_map.shape, bool)
    annotated[:80] = False
    maps, truth = tuning_case(pipe, Tile(fine_image, fine_map, None, "a", mpp=0.125, annotated=annotated))
    assert maps.nuclei.shape == truth.shape == (96, 80)
    assert not maps.nuclei[:40].any()
    assert not truth[:40].any()
    kept = truth[40:] > 0
    assert (kept == (maps.nuclei[40:] > 0.5)).mean() > 0.97
    assert set(np.unique(truth[40:])) == set(np.unique(fine_map[80:]))
