"""Why: users sort and select nuclei by score, whose measures must not depend on what else is on the tile."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsam_hf.model.decoding import BandDecoder, DecodingParameters, decode_nuclei
from cfsam_hf.model.instances import EvidenceThresholds, boundary_evidence
from cfsam_hf.model.maps import NucleiMaps
from cfsam_hf.model.scores import MEASURES, ScoreWeights

from ..decoding_cases import perfect_maps, random_maps
from ..decoding_literal import literal_measures, literal_score

SEEDS = st.integers(0, 2**32 - 1)
WEIGHTS = ScoreWeights(-2.0, 0.5, 1.5, 2.0, -1.0, 0.3)


def ellipse(shape, row, column, radii, angle=0.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    down, right = rows - row, columns - column
    along, across = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    return np.hypot(along / radii[0], across / radii[1]) < 1


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.tuples(st.integers(1, 30), st.integers(1, 30)), st.sampled_from([0, 12]))
def test_measures_equal_their_literal_definitions(seed, shape, minimum_area):
    maps = random_maps(seed, shape)
    parameters = DecodingParameters(minimum_area=minimum_area, score_weights=WEIGHTS)
    decoded = decode_nuclei(**maps, parameters=parameters)
    nuclei = maps["nuclei_probability"]
    thresholds = EvidenceThresholds(foreground=0.5, marker=0.5, core=0.8)
    energy, _ = boundary_evidence(nuclei, maps["hv_maps"], maps["boundary_probability"], thresholds, 1.0, 1.0)
    foreground = nuclei >= parameters.nuclei_threshold
    for row in range(len(decoded)):
        expected = literal_measures(decoded.instance_map == row + 1, foreground, nuclei, energy[1:-1, 1:-1])
        np.testing.assert_allclose(decoded.measures[row], [expected[name] for name in MEASURES], rtol=1e-4, atol=1e-6)
        assert decoded.scores[row] == pytest.approx(literal_score(expected, WEIGHTS), abs=1e-5)


def test_by_default_a_score_is_the_mean_probability():
    maps = random_maps(5, (60, 60))
    decoded = decode_nuclei(**maps)
    assert len(decoded) > 3
    for row, score in enumerate(decoded.scores):
        assert score == pytest.approx(maps["nuclei_probability"][decoded.instance_map == row + 1].mean(), abs=1e-5)


def test_an_ellipse_fills_its_ellipse_and_two_that_hang_together_do_not():
    one = ellipse((80, 80), 40, 40, (24, 12), 0.6)
    two = ellipse((80, 80), 40, 20, (14, 14)) | ellipse((80, 80), 40, 48, (16, 14))
    bent = ellipse((80, 80), 40, 40, (30, 30)) & ~ellipse((80, 80), 40, 55, (30, 30))
    found = []
    for pixels in (one, two, bent):
        decoded = decode_nuclei(pixels.astype(np.float32), np.zeros((2, 80, 80)))
        assert len(decoded) == 1
        found.append(decoded.measures[0, MEASURES.index("fill")])
    assert found[0] == pytest.approx(1, abs=0.01)
    assert max(found[1:]) < 0.95


def test_neighbours_and_edges_are_told():
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 5:25] = 1
    labels[10:30, 25:45] = 2
    labels[34:38, 50:58] = 3
    decoded = decode_nuclei(**perfect_maps(labels))
    assert len(decoded) == 3
    measures = dict(zip(MEASURES, decoded.measures.T, strict=True))
    assert measures["touching"].tolist() == [0.5, 0.5, 0]
    assert (measures["edge"] > 0.9).all()
    without_edges = decode_nuclei((labels > 0).astype(np.float32), np.zeros((2, 40, 60)))
    assert (without_edges.measures[:, MEASURES.index("edge")] == 0).all()


def test_a_filled_hole_is_no_edge():
    nuclei = np.zeros((30, 30), np.float32)
    nuclei[5:25, 5:25] = 1
    whole = decode_nuclei(nuclei, np.zeros((2, 30, 30)))
    nuclei[12:15, 12:15] = 0.4
    # The map knows of an edge around the hole, and of none around the nucleus.
    boundary = np.zeros((30, 30), np.float32)
    boundary[12:15, 11:16] = 0.9
    holed = decode_nuclei(nuclei, np.zeros((2, 30, 30)), boundary_probability=boundary)
    assert (holed.instance_map == whole.instance_map).all()
    assert np.array_equal(holed.measures[:, 1:], whole.measures[:, 1:])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 40))
def test_bands_score_as_the_whole_to_the_last_bit(seed, rows):
    maps = random_maps(seed, (80, 40))
    parameters = DecodingParameters(minimum_score=0.4, minimum_area=3, score_weights=WEIGHTS)
    whole = decode_nuclei(**maps, parameters=parameters)
    decoder = BandDecoder(80, 40, parameters)
    for top in range(0, 80, rows):
        band = {name: values[..., top : top + rows, :] for name, values in maps.items()}
        decoder.add(
            NucleiMaps(
                nuclei=band["nuclei_probability"],
                hv=band["hv_maps"],
                boundary=band["boundary_probability"],
                types=band["type_probabilities"],
            )
        )
    found = decoder.result()
    assert np.array_equal(found.instance_map, whole.instance_map)
    assert np.array_equal(found.measures, whole.measures)
    assert np.array_equal(found.scores, whole.scores)


def test_where_nothing_is_found_there_are_no_scores():
    decoded = decode_nuclei(np.zeros((5, 5)), np.zeros((2, 5, 5)))
    assert decoded.measures.shape == (0, len(MEASURES))
    assert decoded.scores.shape == (0,)


def test_a_pixel_on_the_threshold_is_foreground_to_its_neighbour():
    nuclei = np.zeros((12, 24), np.float32)
    nuclei[2:10, 2:12] = nuclei[2:10, 12:22] = 1
    nuclei[2:10, 12] = 0.5
    boundary = np.zeros_like(nuclei)
    boundary[2:10, 11:13] = 0.9
    decoded = decode_nuclei(nuclei, np.zeros((2, 12, 24)), boundary_probability=boundary)
    assert len(decoded) == 2
    assert decoded.measures[:, MEASURES.index("touching")].tolist() == [0.5, 0.5]


def test_numpys_numbers_become_plain_ones():
    weights = ScoreWeights(area=np.float32(0.5))
    assert type(weights.area) is float
    with pytest.raises(ValueError, match="score weight area is"):
        ScoreWeights(area=np.complex64(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None])
def test_weights_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="score weight fill is"):
        ScoreWeights(fill=value)
