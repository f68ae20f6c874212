"""The maps of a tile or image as probabilities: how a model's outputs become them, and in which channel each lies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Channels of the horizontal and the vertical distance in every layout.
HV_CHANNELS = (1, 2)


@dataclass(frozen=True)
class MapLayout:
    """
    Order of the stacked maps: nuclei, horizontal and vertical distance, boundary if any, background and types if any.

    Args:
        num_types (`int`): T; 0 if there are no type maps.
        has_boundary (`bool`): whether there is a boundary map.
    """

    num_types: int
    has_boundary: bool

    @property
    def channels(self) -> int:
        """Number of stacked maps, C."""
        return 3 + self.has_boundary + (self.num_types + 1 if self.num_types else 0)

    @classmethod
    def of(cls, outputs: Any) -> "MapLayout":
        """The layout of a model's outputs."""
        types = _output(outputs, "type_logits")
        return cls(
            num_types=0 if types is None else types.shape[1] - 1,
            has_boundary=_output(outputs, "boundary_logits") is not None,
        )

    def split(self, maps: np.ndarray) -> "NucleiMaps":
        """The channels of stacked maps (C, H, W) by name, as float32."""
        if maps.ndim != 3 or maps.shape[0] != self.channels:
            raise ValueError(f"{self} needs maps of shape ({self.channels}, H, W), got {maps.shape}")
        maps = as_float32(maps)
        first_type = 3 + self.has_boundary
        horizontal, vertical = HV_CHANNELS
        return NucleiMaps(
            nuclei=maps[0],
            hv=maps[horizontal : vertical + 1],
            boundary=maps[3] if self.has_boundary else None,
            types=maps[first_type:] if self.num_types else None,
        )


@dataclass
class NucleiMaps:
    """
    The maps of one image.

    Attributes:
        nuclei (`np.ndarray` of shape (H, W), float32): probability of a nucleus.
        hv (`np.ndarray` of shape (2, H, W), float32): horizontal and vertical distance to the centroid, -1..1.
        boundary (`np.ndarray` of shape (H, W), float32, or `None`): probability of a nucleus boundary.
        types (`np.ndarray` of shape (T + 1, H, W), float32, or `None`): probabilities of background and types.
    """

    nuclei: np.ndarray
    hv: np.ndarray
    boundary: np.ndarray | None = None
    types: np.ndarray | None = None

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> "NucleiMaps":
        """Applies a function to each map."""
        return NucleiMaps(
            nuclei=function(self.nuclei),
            hv=function(self.hv),
            boundary=None if self.boundary is None else function(self.boundary),
            types=None if self.types is None else function(self.types),
        )

    def crop(self, height: int, width: int) -> "NucleiMaps":
        """The first `height` rows and `width` columns, as views."""
        return self.each(lambda values: values[..., :height, :width])


def join_rows(bands: Sequence[NucleiMaps]) -> NucleiMaps:
    """The maps of bands of rows, from the top, as those of one image; all bands have the same kinds of maps."""

    def joined(name: str) -> Any:
        values = [getattr(band, name) for band in bands]
        return None if values[0] is None else np.concatenate(values, axis=-2)

    return NucleiMaps(joined("nuclei"), joined("hv"), joined("boundary"), joined("types"))


def stack_maps(outputs: Any) -> torch.Tensor:
    """
    A model's outputs as probabilities, stacked in the order of `MapLayout`: (B, C, H, W) float32, on the same device.

    Args:
        outputs (`CfSamNucleiSegmentationOutput`): or anything with its `nuclei_logits` (B, 1, H, W), `hv_maps`
            (B, 2, H, W), `type_logits` (B, T + 1, H, W) or None and `boundary_logits` (B, 1, H, W) or None.
    """
    nuclei, hv = _output(outputs, "nuclei_logits"), _output(outputs, "hv_maps")
    if nuclei is None or hv is None:
        raise ValueError(
            "the outputs lack nuclei_logits or hv_maps: pass the outputs that CfSamForNucleiSegmentation returns"
        )
    maps = [nuclei.float().sigmoid(), hv.float().clamp(-1, 1)]
    boundary, types = _output(outputs, "boundary_logits"), _output(outputs, "type_logits")
    if boundary is not None:
        maps.append(boundary.float().sigmoid())
    if types is not None:
        maps.append(types.float().softmax(dim=1))
    return torch.cat(maps, dim=1)


def as_float32(values: np.ndarray) -> np.ndarray:
    """Maps of any shape as float32; float32 maps are not copied."""
    if values.dtype == np.float32:
        return values
    # Torch converts from float16 many times faster than numpy.
    converted: np.ndarray = torch.from_numpy(values).float().numpy()
    return converted


def _output(outputs: Any, name: str) -> torch.Tensor | None:
    """A field of the outputs, which a stock pipeline turns into a dictionary; None where it is missing."""
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
