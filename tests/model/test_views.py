"""Why: a map turned back wrongly spoils every nucleus; distances must keep their direction in all eight views."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cfsam_hf import CfSamImageProcessor
from cfsam_hf.model.modeling_cfsam import CfSamNucleiSegmentationOutput
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.model.tiling import VIEW_COUNTS, View, axis_starts, turn_tiles, turn_tiles_back, views_of

from ..painted_model import PaintedModel, paint, painted_config

COUNTS = VIEW_COUNTS[1:]


class EquivariantModel(PaintedModel):
    """A network that turns with its tile: its distances are central differences along the columns and the rows."""

    def forward(self, pixel_values):
        self.tiles.append(tuple(pixel_values.shape))
        values = pixel_values.float()
        padded = F.pad(values[:, :1], (1, 1, 1, 1))
        horizontal = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
        vertical = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        return CfSamNucleiSegmentationOutput(
            nuclei_logits=values[:, :1],
            hv_maps=torch.cat([horizontal, vertical], dim=1) / 8,
            type_logits=values,
            boundary_logits=values[:, 1:2],
        )


def noise(seed: int = 0, height: int = 150, width: int = 130) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def pipe():
    processor = CfSamImageProcessor(tile_size=64, tile_overlap=32)
    return NucleiSegmentationPipeline(EquivariantModel(painted_config(2)), image_processor=processor, device="cpu")


def test_the_eight_views_are_all_different_and_the_first_is_the_tile():
    pixels = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    seen = [view.turn(pixels) for view in views_of(8)]
    assert torch.equal(seen[0], pixels)
    assert len({tuple(one.flatten().tolist()) for one in seen}) == 8
    assert torch.equal(seen[1], pixels.rot90(2, (2, 3)))
    assert [views_of(count) for count in VIEW_COUNTS] == [views_of(8)[:count] for count in VIEW_COUNTS]
    assert not any(view.transposed for view in views_of(4))


@pytest.mark.parametrize("view", views_of(8))
def test_maps_without_direction_are_only_put_back(view):
    pixels = torch.rand(2, 5, 6, 9)
    pixels[:, 1:3] = 0
    kept = pixels.clone()
    assert torch.equal(view.turn_back(view.turn(pixels)), pixels)
    assert torch.equal(pixels, kept)


@pytest.mark.parametrize("view", views_of(8))
def test_a_nucleus_has_its_distances_in_every_view(view):
    # Distances of a single nucleus, drawn in the tile and in its view: plain geometry, no network.
    rows, columns = np.mgrid[:12, :12]
    inside = torch.from_numpy(np.hypot(rows - 3, columns - 7) < 3)

    def maps_of(mask: torch.Tensor) -> torch.Tensor:
        y, x = (places.float() for places in torch.nonzero(mask, as_tuple=True))
        maps = torch.zeros(1, 4, 12, 12)
        maps[0, 0][mask] = 1
        maps[0, 1][mask] = (x - x.mean()) / 3
        maps[0, 2][mask] = (y - y.mean()) / 3
        maps[0, 3][mask] = 0.5
        return maps

    turned = view.turn(inside[None, None].float())[0, 0].bool()
    assert torch.allclose(view.turn_back(maps_of(turned)), maps_of(inside), atol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_a_network_that_turns_with_the_tile_has_the_very_same_maps(pipe, count):
    # One tile: every view has the same.
    image = noise(height=64, width=64)
    one, many = (pipe.blended_maps(image, mpp=0.25, views=views) for views in (1, count))
    assert one.hv.std() > 0.1
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(many, field.name)), field.name
    assert pipe(image, mpp=0.25, views=count).table.equals(pipe(image, mpp=0.25).table)


@pytest.mark.parametrize("count", COUNTS)
def test_every_view_puts_its_tiles_where_they_were(pipe, count):
    image = noise()
    one, many = (pipe.blended_maps(image, mpp=0.25, views=views) for views in (1, count))
    # What is read off each pixel alone is the same wherever tiles begin.
    for name in ("nuclei", "boundary", "types"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), atol=1e-3, err_msg=name)
    # This network's distances see the end of a tile at its border, and nowhere else.
    assert np.mean(np.abs(one.hv - many.hv) < 2e-3) > 0.75


@pytest.mark.parametrize("count", COUNTS)
def test_maps_are_averaged_as_probabilities(count):
    # A network that sees only where a tile lies, not what is in it: its own maps, in all views, and their plain mean.
    torch.manual_seed(0)
    logits = 4 * torch.randn(1, 1, 64, 64)

    class BlindModel(PaintedModel):
        def forward(self, pixel_values):
            outputs = super().forward(pixel_values)
            outputs.nuclei_logits = logits.expand(len(pixel_values), -1, -1, -1)
            return outputs

    processor = CfSamImageProcessor(tile_size=64, tile_overlap=32)
    pipe = NucleiSegmentationPipeline(BlindModel(painted_config(2)), image_processor=processor, device="cpu")
    maps = pipe.blended_maps(noise(height=64, width=64), mpp=0.25, views=count)
    probabilities = logits.sigmoid()
    corners = [probabilities, probabilities.flip((2, 3)), probabilities.flip(3), probabilities.flip(2)][:count]
    corners += [corner.transpose(2, 3) for corner in corners] if count == 8 else []
    np.testing.assert_allclose(maps.nuclei, torch.stack(corners).mean(dim=0)[0, 0], atol=1e-3)


def test_tiles_turn_each_in_its_own_view():
    tiles = np.random.default_rng(0).random((8, 3, 6, 6), dtype=np.float32)
    turned = tiles.copy()
    turn_tiles(turned, views_of(8))
    for tile, other, view in zip(tiles, turned, views_of(8), strict=True):
        assert torch.equal(torch.from_numpy(other), view.turn(torch.from_numpy(tile)[None])[0])
    tiles[:, 1:3] = turned[:, 1:3] = 0
    turn_tiles_back(turned, views_of(8))
    np.testing.assert_array_equal(turned, tiles)


def test_images_need_not_be_square(pipe):
    # Tiles are square whatever the image is, so rows and columns can always be swapped.
    for height, width in ((1, 1), (3, 200), (200, 17)):
        assert pipe(noise(1, height, width), mpp=0.25, views=8).instance_map.shape == (height, width)


def test_views_are_so_many_passes_and_no_larger_batches():
    class EvenModel(PaintedModel):
        """Has no distances, so that every view has the same maps."""

        def forward(self, pixel_values):
            outputs = super().forward(pixel_values)
            outputs.hv_maps = torch.zeros_like(outputs.hv_maps)
            return outputs

    image = paint(150, 130)[0]
    processor = CfSamImageProcessor(tile_size=64, tile_overlap=32)
    even = NucleiSegmentationPipeline(EvenModel(painted_config(2)), image_processor=processor, device="cpu")
    one = even(image, mpp=0.25, batch_size=3)
    passes = list(even.model.tiles)
    even.model.tiles.clear()
    eight = even(image, mpp=0.25, batch_size=3, views=8)
    # Each of the other views has tiles that begin elsewhere: one more along each side.
    rows, columns = (len(axis_starts(length, 64, 32)) for length in image.shape[:2])
    assert len(passes) == rows * columns
    assert len(even.model.tiles) == len(passes) + 7 * (rows + 1) * (columns + 1)
    assert set(even.model.tiles) == set(passes)
    assert one.table.equals(eight.table)
    assert np.array_equal(one.instance_map, eight.instance_map)
    # The maps that colours are read off have no direction to turn: their distances cancel.
    tile = image[:64, :64]
    pipe = NucleiSegmentationPipeline(PaintedModel(painted_config(2)), image_processor=processor, device="cpu")
    assert pipe.blended_maps(tile, mpp=0.25).hv.std() > 0.1
    assert not pipe.blended_maps(tile, mpp=0.25, views=2).hv.any()
    with pytest.raises(ValueError, match="views must be 1, 2, 4 or 8, got 5"):
        pipe.blended_maps(image, mpp=0.25, views=5)


@pytest.mark.parametrize("count", [0, 3, 16, -1, 1.5, "2", None, [2]])
def test_other_numbers_of_views_are_refused(count):
    with pytest.raises(ValueError, match="views must be 1, 2, 4 or 8"):
        views_of(count)


def test_a_view_keeps_the_type_and_device_of_its_pixels():
    for view in views_of(8):
        assert view.turn(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert View() in views_of(1)
