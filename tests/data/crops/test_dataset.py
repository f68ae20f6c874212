"""Why: crops must depend only on (seed, index), keep labels on their pixels, and show rare types."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cfsam_hf.data.crops.augmentation import AugmentationOptions
from cfsam_hf.data.crops.dataset import CropDataset, CropSource
from cfsam_hf.data.crops.sampling import SamplingOptions
from cfsam_hf.data.crops.stain import MacenkoAppearance
from cfsam_hf.data.records import Tile

MEAN, STD = (0.7, 0.6, 0.7), (0.15, 0.2, 0.15)
GEOMETRY_ONLY = AugmentationOptions(
    stain_probability=0,
    light_probability=0,
    resolution_probability=0,
    blur_probability=0,
    noise_probability=0,
    jpeg_probability=0,
)


def typed_tile(name="a", side=120, rare=1, common=20, mpp=0.25, seed=0) -> Tile:
    """Discs of radius 4 on a grid: type 1 for the first `rare`, type 2 for the others; colour tells the id."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    instance_map = np.zeros((side, side), dtype=np.int32)
    grid = [(y, x) for y in range(8, side - 8, 12) for x in range(8, side - 8, 12)]
    rng.shuffle(grid)
    type_map = np.zeros((side, side), dtype=np.int16)
    for label, (y, x) in enumerate(grid[: rare + common], start=1):
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= 16
        instance_map[disc] = label
        type_map[disc] = 1 if label <= rare else 2
    image = np.full((side, side, 3), 255, dtype=np.uint8)
    image[instance_map > 0] = (40, 40, 120)
    image[type_map == 1] = (200, 20, 20)
    return Tile(image, instance_map, type_map, name, mpp=mpp, type_names={1: "rare", 2: "common"})


def crops(sources, length=40, size=64, **options) -> CropDataset:
    options = {"num_types": 2, "seed": 3} | options
    return CropDataset(sources, size, MEAN, STD, length, **options)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_shapes_and_types():
    item = crops([CropSource("typed", [typed_tile()], type_mapping={1: 1, 2: 2})])[0]
    assert {name: (tuple(value.shape), value.dtype) for name, value in item.items()} == {
        "pixel_values": ((3, 64, 64), torch.float32),
        "nuclei_labels": ((64, 64), torch.int64),
        "hv_labels": ((2, 64, 64), torch.float32),
        "type_labels": ((64, 64), torch.int64),
        "boundary_labels": ((64, 64), torch.int64),
    }


def test_a_crop_is_a_function_of_seed_and_index():
    sources = [CropSource("typed", [typed_tile(), typed_tile("b", seed=1)], type_mapping={1: 1, 2: 2})]
    data = crops(sources)
    expected = [data[i] for i in range(12)]
    again = crops(sources)
    assert all(same(again[i], expected[i]) for i in reversed(range(12)))
    assert all(same(crops(sources, first_index=5)[i], expected[5 + i]) for i in range(7))
    assert not same(crops(sources, seed=4)[0], expected[0])
    assert not same(expected[0], expected[1])


def test_worker_processes_give_the_same_crops():
    # OpenCV's threads are started first, because forked workers used to wait for them forever.
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000), dtype=np.uint8), (0, 0), 5)
    data = crops([CropSource("typed", [typed_tile()], type_mapping={1: 1, 2: 2})], length=6)
    loader = DataLoader(data, batch_size=2, num_workers=2, timeout=60)
    batches = list(loader)
    for name in data[0]:
        assert torch.equal(
            torch.cat([batch[name] for batch in batches]), torch.stack([data[i][name] for i in range(6)])
        )


def test_labels_stay_on_their_pixels():
    data = crops(
        [CropSource("typed", [typed_tile()], type_mapping={1: 1, 2: 2})], length=60, augmentation=GEOMETRY_ONLY
    )
    agreeing = total = 0
    for index in range(60):
        image, targets = data.make_crop(np.random.default_rng(index))
        inner = (targets["boundary_labels"] == 0) & (targets["nuclei_labels"] == 1)
        outer = (targets["boundary_labels"] == 0) & (targets["nuclei_labels"] == 0)
        assert (image[outer].min(axis=-1) > 180).mean() > 0.995
        red = image[..., 0] > 120
        agreeing += (red == (targets["type_labels"] == 1))[inner].sum()
        total += inner.sum()
    assert agreeing / total > 0.99


@pytest.mark.parametrize(
    "options",
    [
        {"turn_probability": 1.0},
        {"free_geometry_probability": 1.0},
        {"elastic_probability": 1.0, "elastic_pixels": 7.5},
        {"turn_probability": 1.0, "free_geometry_probability": 1.0, "elastic_probability": 1.0},
    ],
)
def test_ids_and_types_stay_on_colours_that_encode_them(options):
    tile = typed_tile(side=240, rare=60, common=140)
    # Flat colours: red is the id, green the type; the pixels beside an edge are mixtures, all others decode exactly.
    tile.image = np.stack([tile.instance_map, 100 * tile.type_map, 0 * tile.type_map], axis=-1).astype(np.uint8)
    data = crops(
        [CropSource("coded", [tile], type_mapping={1: 1, 2: 2})],
        size=96,
        augmentation=AugmentationOptions.preset("none", **options),
    )
    seen = 0
    for seed in range(12):
        image, ids, types, _ = data.cut_crop(np.random.default_rng(seed))
        reach = np.ones((5, 5), dtype=np.uint8)
        flat = cv2.erode(ids.astype(np.float32), reach) == cv2.dilate(ids.astype(np.float32), reach)
        flat[[0, 1, -2, -1]] = flat[:, [0, 1, -2, -1]] = False
        np.testing.assert_array_equal(image[..., 0][flat], ids[flat])
        np.testing.assert_array_equal(image[..., 1][flat], 100 * types[flat])
        seen += len(np.unique(ids[flat])) - 1
    assert seen > 60


def test_elastic_crops_bend():
    plain = AugmentationOptions.preset("none")
    source = CropSource("typed", [typed_tile()], type_mapping={1: 1, 2: 2})
    bent, straight = (
        crops([source], augmentation=options)[0]["nuclei_labels"]
        for options in (replace(plain, elastic_probability=1.0), replace(plain, elastic_probability=0.0))
    )
    assert 0 < (bent != straight).float().mean() < 0.5


def test_stain_transfer_gives_crops_another_tiles_colours(monkeypatch):
    # Measured by hand, so that the library is not needed: the second tile has three times the eosin.
    directions = np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]])
    appearances = iter([MacenkoAppearance(directions, np.array([1.0, e])) for e in (0.5, 1.5)])
    monkeypatch.setattr("cfsam_hf.data.crops.dataset.measure_stains", lambda image, method: next(appearances))
    tiles = [typed_tile(), typed_tile("b", seed=1)]
    for tile in tiles:
        tile.image = np.full_like(tile.image, 180)
    options = AugmentationOptions.preset("none", stain_transfer_probability=1.0)
    data = crops([CropSource("typed", tiles, type_mapping={1: 1, 2: 2})], augmentation=options)
    greens = {int(data.cut_crop(np.random.default_rng(seed))[0][0, 0, 1]) for seed in range(30)}
    assert len(greens) == 3
    assert min(greens) < 175
    assert max(greens) > 200


def test_options_reach_spawned_workers():
    options = AugmentationOptions.preset("strong")
    data = crops([CropSource("typed", [typed_tile()], type_mapping={1: 1, 2: 2})], augmentation=options)
    copy = pickle.loads(pickle.dumps(data))
    assert copy.augmentation == options
    assert same(copy[3], data[3])


def test_upright_crops_copy_the_tile():
    tile = typed_tile(side=64)
    data = crops([CropSource("typed", [tile], type_mapping={1: 1, 2: 2})], augmentation=None)
    item = data[0]
    pixels = (tile.image.transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(item["pixel_values"].numpy(), pixels, atol=1e-5)
    np.testing.assert_array_equal(item["type_labels"].numpy(), tile.type_map)


def test_rare_types_are_drawn():
    tile = typed_tile(side=240, rare=1, common=200)
    options = {"length": 100, "size": 32, "augmentation": GEOMETRY_ONLY}
    always = SamplingOptions(nucleus_probability=1, rarity_power=1)
    source = CropSource("typed", [tile], type_mapping={1: 1, 2: 2}, sampling=always)
    with_rare = sum(bool((item["type_labels"] == 1).any()) for item in crops([source], **options))
    assert 35 <= with_rare <= 75
    source = CropSource("typed", [tile], type_mapping={1: 1, 2: 2}, sampling=SamplingOptions(nucleus_probability=0))
    assert sum(bool((item["type_labels"] == 1).any()) for item in crops([source], **options)) < 20


def test_sources_are_mixed_by_weight_and_untyped_ones_have_no_type_labels():
    untyped = typed_tile("untyped")
    untyped.type_map = None
    typed = CropSource("typed", [typed_tile()], weight=3, type_mapping={1: 1, 2: 2})
    data = crops([typed, CropSource("untyped", [untyped], weight=1)], length=200, size=32)
    without_types = [bool((data[i]["type_labels"] == -100).all()) for i in range(200)]
    assert 30 <= sum(without_types) <= 70


def test_types_mapped_to_none_are_ignored_and_unmapped_ones_refused():
    tile = typed_tile()
    data = crops([CropSource("typed", [tile], type_mapping={1: None, 2: 1})], num_types=1)
    values = set(torch.stack([item["type_labels"] for item in data]).unique().tolist())
    assert values == {-100, 0, 1}
    with pytest.raises(ValueError, match=r"type 1 \(rare\)"):
        crops([CropSource("typed", [tile], type_mapping={2: 1})])
    with pytest.raises(ValueError, match=r"1\.\.1"):
        crops([CropSource("typed", [tile], type_mapping={1: 1, 2: 2})], num_types=1)


def test_tiles_of_another_mpp_are_resampled():
    coarse = typed_tile(mpp=0.5)
    data = crops([CropSource("coarse", [coarse], type_mapping={1: 1, 2: 2})], mpp=0.25)
    prepared = data.sources[0].tiles[0]
    assert prepared.image.shape == (240, 240, 3)
    areas = np.bincount(prepared.instance_map.ravel())[1:]
    np.testing.assert_array_equal(areas, 4 * np.bincount(coarse.instance_map.ravel())[1:])
    unknown = typed_tile(mpp=None)
    data = crops([CropSource("unknown", [unknown], type_mapping={1: 1, 2: 2})], mpp=0.5)
    assert data.sources[0].tiles[0].image.shape == (120, 120, 3)


def test_tiles_smaller_than_the_crop_are_mirrored():
    data = crops([CropSource("small", [typed_tile(side=40, rare=1, common=3)], type_mapping={1: 1, 2: 2})], size=96)
    item = data[0]
    assert item["pixel_values"].shape == (3, 96, 96)
    assert (item["nuclei_labels"] >= 0).all()


def test_empty_tiles_and_partly_annotated_ones():
    empty = typed_tile(rare=0, common=0)
    item = crops([CropSource("empty", [empty], type_mapping={1: 1, 2: 2})])[0]
    assert not item["nuclei_labels"].any()
    half = typed_tile()
    half.annotated = np.zeros((120, 120), dtype=bool)
    half.annotated[:60] = True
    data = crops([CropSource("half", [half], type_mapping={1: 1, 2: 2})], size=120, augmentation=None)
    ignored = data[0]["nuclei_labels"] == -100
    assert ignored[60:].all()
    assert not ignored[:60].any()


def test_tile_weight_zero_is_never_drawn():
    never = typed_tile("never")
    never.image[:] = 0
    data = crops(
        [CropSource("typed", [typed_tile(), never], type_mapping={1: 1, 2: 2}, tile_weights=[1, 0])],
        augmentation=None,
    )
    assert all(float(item["pixel_values"].max()) > 0 for item in data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, "weight"),
        ({"tile_weights": [1, 2]}, "tile weights"),
        ({"tile_weights": [0]}, "tile weights"),
    ],
)
def test_bad_sources(options, message):
    with pytest.raises(ValueError, match=message):
        CropSource("typed", [typed_tile()], **options)


def test_bad_data_sets():
    with pytest.raises(ValueError, match="has no tiles"):
        CropSource("nothing", [])
    with pytest.raises(ValueError, match="at least one source"):
        crops([])
    with pytest.raises(ValueError, match="positive"):
        crops([CropSource("typed", [typed_tile()])], size=0)
    with pytest.raises(IndexError):
        crops([CropSource("typed", [typed_tile()])], length=2)[2]


def test_styles_are_those_of_the_sources():
    tile, mapping = typed_tile(), {1: 1, 2: 2}
    assert "style_ids" not in crops([CropSource("a", [tile], type_mapping=mapping)])[0]
    data = crops([CropSource(name, [typed_tile(name)], style_id=style) for name, style in (("a", 0), ("b", 3))])
    styles = {data.tile_of(i): int(data[i]["style_ids"]) for i in range(20)}
    assert styles == {"a": 0, "b": 3}
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert (batch["style_ids"].shape, batch["style_ids"].dtype) == ((4,), torch.int64)
    with pytest.raises(ValueError, match="either all sources have a style_id or none"):
        crops([CropSource("a", [tile], style_id=1), CropSource("b", [tile])])


def test_a_further_scale_is_that_of_its_source_alone():
    plain = AugmentationOptions.preset("none")
    tile = typed_tile(side=240, common=200)

    def areas(jitter: float) -> np.ndarray:
        data = crops([CropSource("a", [tile], scale_jitter=jitter)], augmentation=plain)
        found = []
        for seed in range(40):
            _, ids, _, _ = data.cut_crop(np.random.default_rng(seed))
            # Nuclei that the crop's border does not cut.
            inner = set(np.unique(ids)) - set(np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]]))
            found.append(np.mean([(ids == i).sum() for i in inner]))
        return np.array(found)

    assert set(areas(1.0)) == {49.0}
    jittered = areas(1.25) / 49
    assert 1.25**-2 - 0.05 < jittered.min() < 0.8
    assert 1.25 < jittered.max() < 1.25**2 + 0.05
    with pytest.raises(ValueError, match="scale_jitter must be 1 or more"):
        CropSource("a", [tile], scale_jitter=0.8)


def test_only_incomplete_sources_have_doubtful_background():
    tile = typed_tile(side=240, rare=0, common=6)
    plain, incomplete = (crops([CropSource("a", [tile], incomplete=flag)], length=12) for flag in (False, True))
    for index in range(12):
        expected, found = plain[index]["nuclei_labels"], incomplete[index]["nuclei_labels"]
        assert set(expected.unique().tolist()) <= {0, 1}
        assert torch.equal(found.clamp(min=0), expected)
    assert any((incomplete[index]["nuclei_labels"] == -1).any() for index in range(12))


def test_points_label_types_within_their_discs_alone():
    item = crops([CropSource("a", [replace(typed_tile(), points=True)], type_mapping={1: 1, 2: None})])[0]
    assert (item["nuclei_labels"] == -100).all()
    assert (item["boundary_labels"] == -100).all()
    assert not item["hv_labels"].any()
    assert set(item["type_labels"].unique().tolist()) == {1, -100}
