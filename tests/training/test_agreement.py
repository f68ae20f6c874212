"""Why: two views of a crop must be cut, turned and aligned exactly, or their agreement teaches nonsense."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfsam_hf.data.crops.targets import make_targets
from cfsam_hf.model.modeling_cfsam import CfSamNucleiSegmentationOutput
from cfsam_hf.model.tiling import views_of
from cfsam_hf.training.agreement import NUM_VIEWS, WindowPair, disagreement, shift_margin
from cfsam_hf.training.mixing import Mixture

from ..training_cases import resumed_run, smoke_recipe, start_run, weights, write_base, write_qupath_tiles, write_tiles

SIZE = 48
MARGIN = 12
NUM_TYPES = 2


def crops(seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of two crops with a few blobs each, in the form of `CropDataset`."""
    rng = np.random.default_rng(seed)
    side = SIZE + MARGIN
    rows, columns = np.mgrid[:side, :side]
    items = []
    for _ in range(2):
        ids = np.zeros((side, side), dtype=np.int32)
        for number, (y, x) in enumerate(rng.uniform(0, side, (12, 2)), start=1):
            ids[np.hypot((rows - y) / 7, (columns - x) / 11) < 1] = number
        targets = make_targets(ids, np.where(ids > 0, ids % NUM_TYPES + 1, 0))
        pixels = rng.random((3, side, side), dtype=np.float32)
        items.append({"pixel_values": pixels, **targets})
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}


def outputs_of(batch: dict[str, torch.Tensor], **changes: torch.Tensor) -> CfSamNucleiSegmentationOutput:
    """The outputs of a network that knows the labels of its windows."""
    types = torch.nn.functional.one_hot(batch["type_labels"], NUM_TYPES + 1).permute(0, 3, 1, 2)
    values = {
        "nuclei_logits": 8.0 * batch["nuclei_labels"][:, None] - 4,
        "hv_maps": batch["hv_labels"].clone(),
        "boundary_logits": 6.0 * batch["boundary_labels"][:, None] - 3,
        "type_logits": 5.0 * types,
    }
    return CfSamNucleiSegmentationOutput(**{**values, **changes})


def mixture() -> Mixture:
    """The first window gets a rectangle of the second, which stays as it is."""
    inside = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    inside[0, 5:30, 11:44] = True
    return Mixture(torch.tensor([1, 0]), inside)


def pairs() -> list[WindowPair]:
    places = [((0, 0), (0, 0)), ((3, 11), (MARGIN, 1)), ((10, 5), (7, 8))]
    plain = [WindowPair(SIZE, place, view) for place in places for view in views_of(NUM_VIEWS)]
    return plain + [replace(pair, mixture=mixture()) for pair in plain[-NUM_VIEWS:]]


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: f"{pair.places} {pair.view} mixed={bool(pair.mixture)}")
def test_what_is_known_of_either_window_agrees_where_they_overlap(pair):
    batch = pair.cut(crops())
    assert {len(values) for values in batch.values()} == {4}
    assert {tuple(values.shape[-2:]) for values in batch.values()} == {(SIZE, SIZE)}
    outputs = outputs_of(batch)
    assert disagreement(outputs, pair).item() == pytest.approx(0, abs=1e-5)
    # Any map that is not turned, or lies elsewhere, would differ.
    first, second = pair.overlap(torch.cat([outputs.nuclei_logits, outputs.hv_maps], dim=1))
    (y0, x0), (y1, x1) = pair.places
    assert first.shape[2:] == (SIZE - abs(y0 - y1), SIZE - abs(x0 - x1))
    assert torch.equal(first, second)
    assert first[:, 1].any()


def test_pixels_turn_with_their_labels():
    pair = WindowPair(SIZE, ((3, 5), (9, 2)), views_of(NUM_VIEWS)[2])
    batch = crops()
    windows = pair.cut(batch)["pixel_values"]
    assert torch.equal(windows[:2], batch["pixel_values"][..., 3 : 3 + SIZE, 5 : 5 + SIZE])
    assert torch.equal(windows[2:], pair.view.turn(batch["pixel_values"][..., 9 : 9 + SIZE, 2 : 2 + SIZE]))


def test_only_second_windows_are_mixed():
    pair = WindowPair(SIZE, ((3, 5), (9, 2)), views_of(NUM_VIEWS)[1], mixture())
    batch = crops()
    plain, mixed = (replace(pair, mixture=of).cut(batch) for of in (None, pair.mixture))
    for name, values in plain.items():
        assert torch.equal(mixed[name][:2], values[:2]), name
        assert torch.equal(mixed[name][3], values[3]), name
        assert not torch.equal(mixed[name][2], values[2]), name


def test_disagreement_is_the_divergence_from_the_mean():
    pair = WindowPair(SIZE, ((0, 0), (0, 0)), views_of(1)[0])
    batch = pair.cut(crops())
    plain = outputs_of(batch)

    logits = plain.nuclei_logits.clone()
    logits[:2] = 4
    logits[2:] = -1
    sure, unsure = torch.sigmoid(torch.tensor([4.0, -1.0])).double().tolist()
    mean = (sure + unsure) / 2

    def divergence(p: float, q: float) -> float:
        return q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))

    expected = divergence(sure, mean) + divergence(unsure, mean)
    changed = disagreement(outputs_of(batch, nuclei_logits=logits), pair)
    assert changed.item() == pytest.approx(expected, rel=1e-4)

    offsets = plain.hv_maps.clone()
    offsets[2:, 0] += 0.5
    inside = plain.nuclei_logits.sigmoid()
    # A quarter away from the mean on either side, wherever nuclei are.
    assert disagreement(outputs_of(batch, hv_maps=offsets), pair).item() == pytest.approx(2 * 0.25**2, rel=1e-4)
    assert 0 < inside.mean() < 1

    types = plain.type_logits.clone()
    types[2:] = types[2:].flip(1)
    assert disagreement(outputs_of(batch, type_logits=types), pair).item() > 0.1
    boundary = -plain.boundary_logits
    boundary[:2] *= -1
    assert disagreement(outputs_of(batch, boundary_logits=boundary), pair).item() > 0.1


def test_the_disagreement_of_a_batch_is_the_mean_over_its_crops():
    pair = WindowPair(SIZE, ((0, 3), (5, 0)), views_of(NUM_VIEWS)[3])
    batch = crops()
    # Few nuclei in one crop, many in the other.
    for name in ("nuclei_labels", "hv_labels", "boundary_labels", "type_labels"):
        batch[name][0, ..., SIZE // 2 :] = 0

    def of(rows: slice) -> float:
        windows = pair.cut({name: values[rows] for name, values in batch.items()})
        logits = outputs_of(windows)
        logits.hv_maps[len(logits.hv_maps) // 2 :] *= 0.5
        return disagreement(logits, pair).item()

    singles = of(slice(0, 1)), of(slice(1, 2))
    assert singles[0] != pytest.approx(singles[1], rel=0.01)
    assert of(slice(0, 2)) == pytest.approx(np.mean(singles), rel=1e-4)


def test_models_without_types_or_boundary_agree_too():
    pair = WindowPair(SIZE, ((0, 0), (10, 10)), views_of(NUM_VIEWS)[1])
    batch = pair.cut(crops())
    outputs = outputs_of(batch, boundary_logits=None, type_logits=None)
    assert disagreement(outputs, pair).item() == pytest.approx(0, abs=1e-5)


def test_either_view_is_pulled_to_the_mean():
    pair = WindowPair(SIZE, ((0, 0), (0, 0)), views_of(1)[0])
    batch = pair.cut(crops())
    logits = torch.zeros_like(outputs_of(batch).nuclei_logits)
    logits[:2] = 1
    logits.requires_grad_()
    disagreement(outputs_of(batch, nuclei_logits=logits), pair).backward()
    assert (logits.grad[:2] > 0).all()
    assert (logits.grad[2:] < 0).all()


def test_drawn_pairs_stay_in_the_crop():
    torch.manual_seed(0)
    drawn = [WindowPair.draw(SIZE) for _ in range(200)]
    places = np.array([pair.places for pair in drawn])
    assert places.min() == 0
    assert places.max() == MARGIN == shift_margin(SIZE)
    assert {pair.view for pair in drawn} == set(views_of(NUM_VIEWS))


@pytest.mark.parametrize("base", ["tiny", "unet"])
def test_typed_models_and_the_unet_train_with_agreement(tmp_path, base):
    write_qupath_tiles(tmp_path)
    values = {"base": "unet", "model_options": {"widths": [8, 12, 16]}}
    if base == "tiny":
        write_base(tmp_path)
        values = {}
    data = [f"reader=qupath,path={tmp_path / 'qupath'}"]
    recipe = smoke_recipe(
        tmp_path, agreement_weight=2.0, data=data, gradient_accumulation_steps=2, batch_size=1, steps=2, **values
    )
    run = start_run(recipe)
    before = weights(run)
    run.train()
    assert run.step == 2
    assert run.skipped == []
    assert any(not torch.equal(value, before[name]) for name, value in weights(run).items())


def test_a_run_with_agreement_resumes_to_the_same_weights(tmp_path):
    write_tiles(tmp_path)
    write_base(tmp_path)
    whole = start_run(smoke_recipe(tmp_path, agreement_weight=2.0, output_dir=str(tmp_path / "whole")))
    size = whole.recipe.data.crop_size
    assert whole.crops.size == size + shift_margin(size) > size
    whole.train()
    entries = (tmp_path / "whole" / "log.jsonl").read_text(encoding="utf-8")
    assert '"disagreement"' in entries

    short = smoke_recipe(tmp_path, agreement_weight=2.0)
    resumed = resumed_run(short)
    resumed.train()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_without_agreement_crops_are_seen_once(tmp_path):
    write_tiles(tmp_path)
    write_base(tmp_path)
    run = start_run(smoke_recipe(tmp_path))
    assert run.crops.size == run.recipe.data.crop_size


def test_a_negative_weight_is_refused(tmp_path):
    with pytest.raises(ValueError, match="agreement_weight must not be negative, got -1"):
        smoke_recipe(tmp_path, agreement_weight=-1)
