"""Why: PanNuke's and CoNIC's scores are averages of averages; each must equal its protocol written out."""

import math

import numpy as np
import pytest

from cfsam_hf.metrics import (
    UNKNOWN_TYPE,
    PanopticQuality,
    TypedPanopticQuality,
    conic_quality,
    count_r2,
    overlap_table,
    pannuke_quality,
    typed_panoptic_quality,
    types_from_map,
)

from .. import metrics_literal as literal

T = 4


def random_types(rng, label_map, kinds=(0, 1, 2, 3)):
    """{id: type}; type 4 never occurs, type 0 now and then."""
    return {int(number): int(rng.choice(kinds, p=[0.1, 0.4, 0.3, 0.2])) for number in np.unique(label_map) if number}


def random_images(rng, count):
    for _ in range(count):
        true, pred = literal.random_pair(rng, size=14)
        true_types, pred_types = random_types(rng, true), random_types(rng, pred)
        # Prediction and truth mostly agree where they share an id.
        pred_types |= {number: true_types[number] for number in pred_types if number in true_types and number % 3}
        yield true, pred, true_types, pred_types


def scored(images):
    return [
        typed_panoptic_quality(true, pred, true_types=true_types, pred_types=pred_types, num_types=T)
        for true, pred, true_types, pred_types in images
    ]


def stacks(images):
    return [
        (literal.channels(true, true_types, T), literal.channels(pred, pred_types, T))
        for true, pred, true_types, pred_types in images
    ]


def test_pannuke_protocol_written_out():
    rng = np.random.default_rng(0)
    images = list(random_images(rng, 300))
    tissues = [("Breast", "Colon", "Liver")[rng.integers(3)] for _ in images]
    found = pannuke_quality(scored(images), tissues)

    bpq, mpq, by_type = [], [], [[] for _ in range(T)]
    for true, pred in stacks(images):
        bpq.append(literal.pq(true.max(axis=-1), pred.max(axis=-1)) if true.any() else math.nan)
        scores = [literal.pq(true[..., t], pred[..., t]) if true[..., t].any() else math.nan for t in range(T)]
        mpq.append(literal.mean_defined(scores))
        for collected, score in zip(by_type, scores, strict=True):
            collected.append(score)

    def over_tissues(scores):
        names = sorted(set(tissues))
        of_tissue = [[s for s, tissue in zip(scores, tissues, strict=True) if tissue == name] for name in names]
        return literal.mean_defined([literal.mean_defined(some) for some in of_tissue])

    assert found.bpq_over_images == pytest.approx(literal.mean_defined(bpq))
    assert found.mpq_over_images == pytest.approx(literal.mean_defined(mpq))
    assert found.bpq_over_tissues == pytest.approx(over_tissues(bpq))
    assert found.mpq_over_tissues == pytest.approx(over_tissues(mpq))
    assert found.type_pq == pytest.approx([literal.mean_defined(scores) for scores in by_type], nan_ok=True)
    assert math.isnan(found.type_pq[3])
    assert found.images_without_nuclei == sum(math.isnan(score) for score in bpq) > 0


def test_conic_protocol_written_out():
    rng = np.random.default_rng(1)
    images = list(random_images(rng, 300))
    found = conic_quality(scored(images))
    counts = np.array(
        [[literal.panoptic(true[..., t], pred[..., t]) for t in range(T)] for true, pred in stacks(images)]
    )
    hits, false_positives, false_negatives, ious = counts.sum(axis=0).T
    # The challenge's guard against division by zero moves the sixth decimal.
    expected = hits / (hits + false_positives / 2 + false_negatives / 2 + 1e-6) * ious / (hits + 1e-6)
    assert found.type_pq_plus[:3] == pytest.approx(expected[:3], abs=1e-5)
    assert math.isnan(found.type_pq_plus[3])
    assert found.mpq_plus == pytest.approx(expected[:3].mean(), abs=1e-5)
    true_counts, pred_counts = counts[..., 0] + counts[..., 2], counts[..., 0] + counts[..., 1]
    assert found.type_r2 == pytest.approx(count_r2(true_counts, pred_counts))
    assert found.r2 == pytest.approx(np.mean(found.type_r2))


def test_renaming_ids_changes_nothing():
    rng = np.random.default_rng(2)
    for true, pred, true_types, pred_types in random_images(rng, 100):
        expected = typed_panoptic_quality(true, pred, true_types=true_types, pred_types=pred_types, num_types=T)
        new_true, true_names = literal.renamed(rng, true)
        new_pred, pred_names = literal.renamed(rng, pred)
        found = typed_panoptic_quality(
            new_true,
            new_pred,
            true_types={true_names[number]: kind for number, kind in true_types.items()},
            pred_types={pred_names[number]: kind for number, kind in pred_types.items()},
            num_types=T,
        )
        assert found == expected


def test_a_perfect_prediction_scores_one_although_a_type_is_missing():
    rng = np.random.default_rng(3)
    true = [literal.random_label_map(rng) for _ in range(20)]
    types = [{int(number): 1 + int(number) % 3 for number in np.unique(image) if number} for image in true]
    images = [
        typed_panoptic_quality(image, image, true_types=kinds, pred_types=kinds, num_types=T)
        for image, kinds in zip(true, types, strict=True)
    ]
    pannuke, conic = pannuke_quality(images, ["Lung"] * 20), conic_quality(images)
    assert pannuke.bpq_over_tissues == pannuke.mpq_over_tissues == pannuke.mpq_over_images == 1
    assert conic.mpq_plus == conic.r2 == 1


def test_false_alarms_are_free_in_pannuke_where_the_truth_is_empty_and_not_in_conic():
    hit, alarms, nothing = PanopticQuality(1, 0, 0, 1.0), PanopticQuality(0, 5, 0, 0.0), PanopticQuality()
    images = [TypedPanopticQuality(hit, (hit, nothing)), TypedPanopticQuality(alarms, (alarms, alarms))]
    assert pannuke_quality(images).bpq_over_images == pannuke_quality(images).mpq_over_images == 1
    conic = conic_quality(images)
    assert conic.type_pq_plus == (1 / 3.5, 0.0)


def test_tissues_weigh_alike():
    full, half = PanopticQuality(1, 0, 0, 1.0), PanopticQuality(1, 1, 1, 1.0)
    images = [TypedPanopticQuality(counts, (counts,)) for counts in (full, full, full, half)]
    quality = pannuke_quality(images, ["Breast"] * 3 + ["Colon"])
    assert (quality.bpq_over_images, quality.bpq_over_tissues) == (0.875, 0.75)
    assert quality.tissue_mpq == {"Breast": 1.0, "Colon": 0.5}
    assert math.isnan(pannuke_quality(images).bpq_over_tissues)


def test_empty_images_only():
    nothing = TypedPanopticQuality(PanopticQuality(), (PanopticQuality(),))
    quality = pannuke_quality([nothing], ["Skin"])
    assert math.isnan(quality.bpq_over_images)
    assert math.isnan(quality.mpq_over_tissues)
    assert math.isnan(conic_quality([nothing]).mpq_plus)


def test_untyped_nuclei_count_nowhere():
    true = np.array([[1, 1, 0, 2]])
    result = typed_panoptic_quality(true, true, true_types=[1, 0], pred_types=[1, 0], num_types=1)
    assert (result.nuclei.num_true, result.nuclei.num_pred) == (1, 1)


def test_true_nuclei_of_unknown_type_and_what_matches_them_are_left_out_of_all_types():
    rng = np.random.default_rng(4)
    left_out = 0
    for number, (true, pred, true_types, pred_types) in enumerate(random_images(rng, 200)):
        if number % 2:
            # Nuclei that were found, but for a row or column of pixels, so that most of them match.
            pred = np.where(true == np.roll(true, 1, number % 4 // 2), true, 0)
            pred_types = random_types(rng, pred)
        true_types = {n: UNKNOWN_TYPE if rng.random() < 0.3 else kind for n, kind in true_types.items()}
        [found] = scored([(true, pred, true_types, pred_types)])
        # bPQ counts every nucleus that has a type, known or not.
        anything = [{n: kind != 0 for n, kind in types.items()} for types in (true_types, pred_types)]
        everything = literal.panoptic(literal.channels(true, anything[0], 1)[..., 0], pred_channel(pred, anything[1]))
        assert counts_of(found.nuclei) == pytest.approx(everything)
        known = literal.with_known_types(true, pred, true_types, UNKNOWN_TYPE)
        types = [
            {int(n): kinds[int(n)] for n in np.unique(m) if n}
            for m, kinds in zip(known, (true_types, pred_types), strict=True)
        ]
        left_out += (pred != known[1]).any()
        for t, (true_t, pred_t) in enumerate(zip(*by_type(known, types), strict=True)):
            assert counts_of(found.types[t]) == pytest.approx(literal.panoptic(true_t, pred_t))
    assert left_out > 50


def pred_channel(pred, has_type):
    return literal.channels(pred, has_type, 1)[..., 0]


def by_type(maps, types):
    return [np.moveaxis(literal.channels(m, kinds, T), -1, 0) for m, kinds in zip(maps, types, strict=True)]


def counts_of(quality):
    return (quality.true_positives, quality.false_positives, quality.false_negatives, quality.iou_sum)


def test_unknown_is_neither_right_nor_wrong_and_untyped_is_wrong():
    true = np.array([[1, 1, 0, 2, 0, 3]])

    def score(second):
        return typed_panoptic_quality(
            true, true, true_types={1: 1, 2: second, 3: 2}, pred_types={1: 1, 2: 1, 3: 2}, num_types=2
        )

    unknown, untyped = score(UNKNOWN_TYPE), score(0)
    assert [quality.pq for quality in unknown.types] == [1, 1]
    assert (unknown.nuclei.num_true, untyped.nuclei.num_true) == (3, 2)
    assert untyped.types[0].false_positives == 1
    conic = conic_quality([unknown, unknown])
    assert conic.mpq_plus == conic.r2 == 1


def test_r2():
    true, pred = np.array([[3, 0, 2], [5, 0, 2], [10, 0, 2]]), np.array([[2, 0, 2], [5, 0, 2], [12, 0, 3]])
    # 1 - (1 + 0 + 4) / (9 + 1 + 16); constant truth met and not met.
    np.testing.assert_allclose(count_r2(true, pred), [1 - 5 / 26, 1, 0])
    assert np.isnan(count_r2(true[:1], pred[:1])).all()
    with pytest.raises(ValueError, match=r"got \(3, 3\) and \(1, 3\)"):
        count_r2(true, pred[:1])


def test_type_map_votes():
    label_map = np.array([[3, 3, 3, 3, 0], [8, 8, 0, 5, 5]], np.uint16)
    type_map = np.array([[0, 0, 0, 2, 4], [1, 4, 4, 0, 0]], np.uint8)
    # One typed pixel outvotes untyped ones, a tie goes to the lower type, types outside nuclei do not count.
    assert types_from_map(label_map, type_map) == {3: 2, 5: 0, 8: 1}
    assert types_from_map(label_map * 0, type_map) == {}
    assert types_from_map(label_map, type_map * 0) == {3: 0, 5: 0, 8: 0}
    # Unknown is a nucleus only without any pixel of a type.
    unknown = np.array([[UNKNOWN_TYPE, UNKNOWN_TYPE, 0, 2, UNKNOWN_TYPE], [0, UNKNOWN_TYPE, 0, 0, 0]])
    assert types_from_map(label_map, unknown) == {3: 2, 5: 0, 8: UNKNOWN_TYPE}
    with pytest.raises(ValueError, match="type_map holds the negative id -1"):
        types_from_map(label_map, unknown.clip(-1))


def test_types_that_do_not_fit_are_named():
    true = np.array([[1, 1, 0, 4]])

    def score(true_types, maps=(true, true), num_types=2):
        return typed_panoptic_quality(*maps, true_types=true_types, pred_types={1: 1, 4: 2}, num_types=num_types)

    assert score({1: 1, 4: 2}).types[1].true_positives == 1
    with pytest.raises(ValueError, match="true_types has no type for id 4"):
        score({1: 1})
    with pytest.raises(ValueError, match=r"holds 2 types .* but the label map has id 4"):
        score([1, 2])
    with pytest.raises(ValueError, match=r"holds type 3, allowed are 0..2"):
        score({1: 1, 4: 3})
    with pytest.raises(ValueError, match=r"holds type -1, allowed are 0..2 and -100 \(unknown\)"):
        score({1: 1, 4: -1})
    with pytest.raises(ValueError, match=r"pred_types holds type -100, allowed are 0..2;"):
        typed_panoptic_quality(true, true, true_types={1: 1, 4: 2}, pred_types={1: 1, 4: UNKNOWN_TYPE}, num_types=2)
    with pytest.raises(TypeError, match="type map, which needs the label maps"):
        score(true, (overlap_table(true, true), None))
    with pytest.raises(ValueError, match=r"type_map is \(1, 3\)"):
        score(true[:, :3])
    with pytest.raises(ValueError, match="num_types must be at least 1"):
        score({1: 1, 4: 2}, num_types=0)


def test_wrong_collections_are_named():
    one, two = (TypedPanopticQuality(PanopticQuality(), (PanopticQuality(),) * n) for n in (1, 2))
    with pytest.raises(ValueError, match="no images"):
        pannuke_quality([])
    with pytest.raises(ValueError, match="no images"):
        conic_quality([])
    with pytest.raises(ValueError, match="1 images but 2 tissues"):
        pannuke_quality([one], ["a", "b"])
    with pytest.raises(ValueError, match="differing numbers of types"):
        pannuke_quality([one, two])
    with pytest.raises(ValueError, match="differing numbers of types"):
        conic_quality([one, two])
