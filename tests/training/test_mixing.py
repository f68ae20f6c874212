"""Why: in windows that combine two crops, pixels and all their labels must come from the same crop."""

import pytest
import torch

from cfsam_hf.training.mixing import SIDES, Mixture

from ..training_cases import resumed_run, smoke_recipe, start_run, weights, write_base, write_tiles


def test_a_rectangle_comes_from_the_partner_and_the_rest_stays():
    inside = torch.zeros(3, 6, 8, dtype=torch.bool)
    inside[0, 1:4, 2:7] = True
    mixture = Mixture(torch.tensor([2, 0, 1]), inside)
    for shape in [(3, 6, 8), (3, 4, 6, 8)]:
        values = torch.rand(shape)
        mixed = mixture.mix(values)
        assert torch.equal(mixed[0, ..., 1:4, 2:7], values[2, ..., 1:4, 2:7])
        assert torch.equal(mixed[0, ..., ~inside[0]], values[0, ..., ~inside[0]])
        assert torch.equal(mixed[1:], values[1:])
        part = mixture.cut(slice(2, 5), slice(0, 6)).mix(values[..., 2:5, 0:6])
        assert torch.equal(part, mixed[..., 2:5, 0:6])


def test_labels_keep_their_kind():
    mixture = Mixture(torch.tensor([1, 0]), torch.ones(2, 4, 4, dtype=torch.bool))
    labels = torch.stack([torch.full((4, 4), -100), torch.arange(16).reshape(4, 4)])
    assert torch.equal(mixture.mix(labels), labels.flip(0))


def test_drawn_rectangles_have_their_sides_and_another_crop():
    torch.manual_seed(0)
    low, high = SIDES
    shares, partners = [], set()
    for _ in range(100):
        mixture = Mixture.draw(4, 40, 60, 0.5)
        assert not (mixture.partners == torch.arange(4)).any()
        partners.add(tuple(mixture.partners.tolist()))
        for rectangle in mixture.inside:
            rows, columns = rectangle.any(1), rectangle.any(0)
            # Filled, so a rectangle if rows and columns are without gaps.
            assert torch.equal(rectangle, rows[:, None] & columns)
            for line in (rows, columns):
                assert (line.int().diff().abs().sum() + line[0] + line[-1]).item() in (0, 2)
                if rectangle.any():
                    assert low * len(line) - 1 <= line.sum() <= high * len(line) + 1
            shares.append(rectangle.any().item())
    assert partners == {(1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)}
    assert 0.4 < sum(shares) / len(shares) < 0.6


def test_a_single_crop_stays_as_it_is():
    values = torch.rand(1, 3, 8, 8)
    assert torch.equal(Mixture.draw(1, 8, 8, 1.0).mix(values), values)


@pytest.mark.parametrize("agreement_weight", [0.0, 2.0])
def test_a_run_with_mixed_windows_resumes_to_the_same_weights(tmp_path, agreement_weight):
    write_tiles(tmp_path)
    write_base(tmp_path)
    options = {"agreement_weight": agreement_weight, "mixing_probability": 1.0}
    whole, plain = (
        start_run(smoke_recipe(tmp_path, output_dir=str(tmp_path / name), **{**options, **changes}))
        for name, changes in (("whole", {}), ("plain", {"mixing_probability": 0.0}))
    )
    whole.train()
    plain.train()
    short = smoke_recipe(tmp_path, **options)
    resumed = resumed_run(short)
    resumed.train()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(whole).items())


def test_a_single_crop_a_pass_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size of 1 has no second crop"):
        smoke_recipe(tmp_path, mixing_probability=0.5, batch_size=1, gradient_accumulation_steps=2)


def test_a_probability_above_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mixing_probability must lie in \[0, 1\], got 1.5"):
        smoke_recipe(tmp_path, mixing_probability=1.5)


def test_a_window_with_two_styles_is_neutral():
    inside = torch.zeros(4, 8, 8, dtype=torch.bool)
    inside[1:, 2:4, 2:4] = True
    mixture = Mixture(torch.tensor([1, 2, 3, 0]), inside)
    # Unmixed; mixed with another style; with its own; with another.
    assert mixture.mix_styles(torch.tensor([1, 2, 3, 3])).tolist() == [1, 0, 3, 0]
