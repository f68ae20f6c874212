"""The search for decoding parameters: it finds what the maps were made for, and tries nothing that cannot matter."""

import numpy as np
import pytest

from cfsam_hf import DecodingParameters
from cfsam_hf.evaluation import decoding_search
from cfsam_hf.evaluation.decoding_search import quality, search_decoding
from cfsam_hf.maps_cfsam import NucleiMaps


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
    assert lines[0].endswith("to begin with")
    assert any(f"minimum_area {found.minimum_area}" in line for line in lines)


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
    # The default of markers, .5, lies below every candidate of cores; a higher one would be left out, not tried.
    assert all(one.core_threshold >= one.marker_threshold for one in tried)


def test_data_sets_count_alike_however_many_tiles_they_have():
    maps, truth = case()
    nothing = np.zeros_like(truth)
    nothing[0:2, 50:60] = 1
    parameters = DecodingParameters(nuclei_threshold=0.4, minimum_area=45)
    assert quality({"a": [(maps, truth)] * 3, "b": [(maps, nothing)]}, parameters) == pytest.approx(0.5)
