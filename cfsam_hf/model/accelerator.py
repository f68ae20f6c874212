"""The network on a GPU: tiles go there as bytes and are normalised there, maps come back in float16, and neither copy
nor decoding makes the network wait. Nothing here has been measured on a GPU yet."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .maps import MapLayout, stack_maps


@dataclass(frozen=True)
class PendingMaps:
    """Maps on their way back.

    Attributes:
        maps: (B, C, H, W) float16 on the CPU, valid once the event has happened.
        layout: order of the maps.
        event: of the device; None if the maps are there.
        source: the pixels that the device may still be reading, kept until then.
    """

    maps: torch.Tensor
    layout: MapLayout
    event: torch.cuda.Event | None
    source: np.ndarray

    def wait(self) -> tuple[np.ndarray, MapLayout]:
        """The maps (B, C, H, W) float16 and their layout, once they have arrived."""
        if self.event is not None:
            self.event.synchronize()
        return self.maps.numpy(), self.layout


class AcceleratorNetwork:
    """A model on a device that works beside the CPU.

    Layers get their inputs with channels last in memory, which tensor cores need. Batches should all have one shape:
    the caller fills them up. For a fixed window size `model.compile(mode="reduce-overhead")` adds CUDA graphs.

    Args:
        model: the model, on its device.
        pixel_values: of the image processor, tiles (B, H, W, 3) uint8 to (B, 3, H, W) float32: the normalisation.
    """

    def __init__(self, model: Any, pixel_values: Callable[[np.ndarray], np.ndarray]):
        self.model = model.to(memory_format=torch.channels_last)
        self.device = model.device
        # A channel has 256 values, so a table gives the CPU's results to the last bit.
        every_level = np.arange(256, dtype=np.uint8)[None, None, :, None].repeat(3, axis=3)
        levels = np.ascontiguousarray(pixel_values(every_level)[0, :, 0])
        self._levels = torch.from_numpy(levels).to(self.device).flatten()
        self._first_level = 256 * torch.arange(3, device=self.device).view(1, 3, 1, 1)

    def stage(self, tiles: np.ndarray) -> np.ndarray:
        """Tiles (B, H, W, 3) uint8 as (B, 3, H, W), in memory that the device can read by itself."""
        batch, height, width, _ = tiles.shape
        pinned = torch.empty((batch, 3, height, width), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        staged: np.ndarray = pinned.numpy()
        staged[...] = tiles.transpose(0, 3, 1, 2)
        return staged

    def launch(
        self, values: np.ndarray, style_id: int, autocast: AbstractContextManager[Any], batch_size: int
    ) -> PendingMaps:
        """Starts a batch and does not wait for it.

        Args:
            values: (B, 3, H, W) uint8, as `stage` makes them.
            style_id: number of the style; 0 for the neutral one.
            autocast: the context of the forward pass.
            batch_size: the batch is filled up to this number with its last tile, so that rounding does not depend on
                the number of tiles.
        """
        with torch.inference_mode(), autocast:
            pixels = torch.from_numpy(values).to(self.device, non_blocking=True)
            if batch_size > len(values):
                pixels = torch.cat([pixels, pixels[-1:].expand(batch_size - len(values), -1, -1, -1)])
            normalised = self._levels[pixels.long() + self._first_level].to(self.model.dtype)
            inputs = {"pixel_values": normalised.contiguous(memory_format=torch.channels_last)}
            if style_id:
                inputs["style_ids"] = torch.full((len(pixels),), style_id, device=self.device)
            outputs = self.model(**inputs)
            maps = stack_maps(outputs)[: len(values)].half()
            if self.device.type != "cuda":
                return PendingMaps(maps.cpu(), MapLayout.of(outputs), None, values)
            arrived = torch.empty(maps.shape, dtype=maps.dtype, pin_memory=True)
            arrived.copy_(maps, non_blocking=True)
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            return PendingMaps(arrived, MapLayout.of(outputs), event, values)
