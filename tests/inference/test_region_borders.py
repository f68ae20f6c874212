"""Why: where two regions divide a cluster of nuclei in different ways, none may be lost and none counted twice."""

import itertools
from pathlib import PurePath

import numpy as np
import pyarrow
import pytest

from cfsam_hf.inference.region_borders import BorderState, border_columns, border_states, settle
from cfsam_hf.inference.region_store import RegionStore
from cfsam_hf.model.result import DecodedNuclei
from cfsam_hf.slides.regions import RegionGrid

# Two regions, 0 to 500 and 500 to 1000; the left one decodes up to 744, the right one from 256.
GRID = RegionGrid(1000, 300, (256, 64, 1), side=500)
TOP, BOTTOM = 100, 140


def decoded(region, borders):
    """A row of touching nuclei in a region, divided at these columns of the slide."""
    inside = region.inside
    instance_map = np.zeros((inside.height, inside.width), np.int32)
    ends = [(max(a, inside.x0), min(b, inside.x1)) for a, b in itertools.pairwise(borders)]
    ends = np.array([(a, b) for a, b in ends if a < b]) - inside.x0
    for number, (left, right) in enumerate(ends, start=1):
        instance_map[TOP - inside.y0 : BOTTOM - inside.y0, left:right] = number
    count = len(ends)
    boxes = np.stack([ends[:, 0], np.full(count, TOP), ends[:, 1], np.full(count, BOTTOM)], axis=1)
    return DecodedNuclei(
        instance_map=instance_map,
        type_ids=np.zeros(count, np.int64),
        type_probabilities=np.full(count, np.nan),
        scores=np.ones(count),
        boxes=boxes,
        centroids=(boxes[:, :2] + boxes[:, 2:]) / 2,
        areas=(boxes[:, 2] - boxes[:, 0]) * (BOTTOM - TOP),
        probabilities=None,
    )


def chain(first, last, phase):
    """Borders of nuclei of 40 px, from `first` to `last`."""
    return [first, *(x for x in range(phase, last, 40) if first < x < last), last]


def settled(folder, left, right):
    """The first and last columns of the nuclei that are kept of two divisions of the slide, in order."""
    regions = GRID.regions(lambda *box: True)
    store = RegionStore(folder, PurePath("slide"), {})
    found, states = {}, {}
    with store.held(resume=False):
        for region, borders in zip(regions, (left, right), strict=True):
            nuclei = decoded(region, borders)
            states[region.name] = border_states(nuclei, region, GRID)
            kept = states[region.name] != BorderState.FOREIGN
            found[region.name] = (nuclei.boxes[kept] + region.inside.x0)[:, [0, 2]]
            columns = border_columns(nuclei.select(kept), states[region.name][kept], region)
            store.write(region, pyarrow.table(columns))
        masks = settle(store, regions)
    spans = np.concatenate([found[region.name][masks[region.name]] for region in regions])
    return sorted(map(tuple, spans.tolist())), [set(states[region.name].tolist()) for region in regions]


def test_the_grid_is_the_one_of_these_tests():
    left, right = GRID.regions(lambda *box: True)
    assert (left.inside.x1, right.core.x0, right.inside.x0) == (744, 500, 256)


def test_a_nucleus_that_both_regions_own_counts_once(tmp_path):
    # 470 to 510 belongs to the left region, 480 to 520 to the right one.
    spans, states = settled(tmp_path, chain(200, 800, 230), chain(200, 800, 240))
    assert all(BorderState.OPEN in of for of in states)
    assert (470, 510) in spans
    assert (480, 520) not in spans
    assert (520, 560) in spans
    assert (spans[0][0], spans[-1][1]) == (200, 800)
    assert all(after[0] - before[1] <= 10 for before, after in itertools.pairwise(spans))


def test_a_nucleus_that_neither_region_owns_is_not_lost(tmp_path):
    # The left region sees 480 to 520 and the right one 470 to 510, each with its centre on the other's side.
    spans, states = settled(tmp_path, chain(200, 800, 241), chain(200, 800, 229))
    assert all(BorderState.OFFERED in of for of in states)
    near = [span for span in spans if span[0] < 520 and span[1] > 470]
    assert near == [(441, 481), (481, 521), (509, 549)]


def test_the_region_that_sees_all_of_a_cluster_decides(tmp_path):
    # The left region, which comes first, cannot see the end of the cluster.
    spans, states = settled(tmp_path, chain(300, 800, 314), chain(300, 800, 326))
    assert BorderState.OPEN in states[0]
    assert BorderState.SETTLED in states[1]
    assert (486, 526) in spans
    assert (474, 514) not in spans


@pytest.mark.parametrize("phase", range(200, 240, 7))
def test_regions_that_agree_keep_every_nucleus_once(phase, tmp_path):
    borders = chain(200, 800, phase)
    spans, _ = settled(tmp_path, borders, borders)
    assert spans == list(itertools.pairwise(borders))
