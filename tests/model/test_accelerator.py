"""Why: bytes up, half floats down and batches in flight must change nothing but the speed."""

import contextlib

import numpy as np
import pytest
import torch

from cfsam_hf.model.accelerator import AcceleratorNetwork
from cfsam_hf.model.image_processing_cfsam import CfSamImageProcessor
from cfsam_hf.model.maps import stack_maps
from cfsam_hf.model.stages import Batch, ImageRun, NetworkClock, run_network
from cfsam_hf.model.tiling import Window

from ..painted_model import paint, painted_pipeline
from ..tiny import tiny_test_model


@pytest.fixture(scope="module")
def network():
    model = tiny_test_model(styles=["a", "b"])
    return model, AcceleratorNetwork(model, CfSamImageProcessor().pixel_values)


def test_pixels_are_normalised_as_on_the_cpu(network):
    model, accelerator = network
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    staged = accelerator.stage(tiles)
    assert (staged.dtype, staged.shape) == (np.uint8, (2, 3, 64, 48))
    pending = accelerator.launch(staged, 0, contextlib.nullcontext(), 3)
    hook.remove()
    [inputs] = seen
    expected = torch.from_numpy(CfSamImageProcessor().pixel_values(tiles))
    assert torch.equal(inputs["pixel_values"][:2], expected)
    # The batch is filled with its last tile, and layers get channels last.
    assert torch.equal(inputs["pixel_values"][2], expected[1])
    assert inputs["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert "style_ids" not in inputs
    maps, layout = pending.wait()
    assert maps.dtype == np.float16
    with torch.inference_mode():
        outputs = stack_maps(model(expected)).numpy()
    assert maps.shape == outputs.shape == (2, layout.channels, 64, 48)
    np.testing.assert_allclose(maps, outputs, atol=1e-3)


def test_the_style_reaches_the_model(network):
    model, accelerator = network
    staged = accelerator.stage(np.full((1, 64, 64, 3), 100, np.uint8))
    neutral, other = (accelerator.launch(staged, style, contextlib.nullcontext(), 1).wait()[0] for style in (0, 2))
    assert not np.array_equal(neutral, other)
    with torch.inference_mode():
        pixels = torch.from_numpy(CfSamImageProcessor().pixel_values(np.full((1, 64, 64, 3), 100, np.uint8)))
        expected = stack_maps(model(pixels, style_ids=torch.tensor([2]))).numpy()
    np.testing.assert_allclose(other, expected, atol=1e-3)


def test_the_pipeline_finds_the_same_nuclei(monkeypatch):
    pipe = painted_pipeline()
    images = [paint(150, 130, seed=seed)[0] for seed in range(3)]
    expected = pipe(images, mpp=0.25, views=2)
    accelerator = AcceleratorNetwork(pipe.model, pipe.image_processor.pixel_values)
    monkeypatch.setattr(pipe, "_accelerator", lambda: accelerator)
    pipe.model.tiles.clear()
    found = pipe(images, mpp=0.25, views=2, batch_size=5)
    assert {shape[0] for shape in pipe.model.tiles} == {5}
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.instance_map, other.instance_map)
        assert one.table["type"].equals(other.table["type"])


@pytest.mark.parametrize(("in_flight", "order"), [(0, "l0 w0 l1 w1 l2 w2"), (1, "l0 l1 w0 l2 w1 w2")])
def test_batches_in_flight_are_launched_before_earlier_ones_are_waited_for(in_flight, order):
    events = []

    def launch(values):
        number = int(values[0, 0, 0, 0])
        events.append(f"l{number}")
        if number == 1:
            raise RuntimeError("out of memory")

        def wait():
            events.append(f"w{number}")
            return np.full((1, 4, 2, 2), number, np.float32), None

        return wait

    batches = [
        Batch(tiles=[(ImageRun(), Window(0, 0, 2))], values=np.full((1, 3, 2, 2), number)) for number in range(3)
    ]
    clock = NetworkClock()
    done = list(run_network((batch for batch in batches), launch, clock, in_flight))
    assert done == batches
    # The second failed at its launch and was never waited for.
    assert events == [event for event in order.split() if event != "w1"]
    assert [batch.maps is None for batch in done] == [False, True, False]
    assert [str(batch.tiles[0][0].error) for batch in done] == ["None", "out of memory", "None"]
    assert 0 < clock.busy <= clock.span
