"""Rectangles of one crop pasted into another, so that the model judges a nucleus by itself and not by its tile.

What a model learns about whole tiles of a small data set (such as that all nuclei of one tile are epithelial) does not
hold for other tiles. A window made of two tiles gives no such hints. The method is CutMix (Yun et al. 2019), here for
label maps, and combined with the agreement loss if that is on (French et al. 2020). Boundary labels are those of each
crop: the edge of a rectangle cuts nuclei like the edge of a window and is not a boundary.
"""

from dataclasses import dataclass

import torch

# Sides of a rectangle over those of the window.
SIDES = (0.4, 0.8)


@dataclass(frozen=True)
class Mixture:
    """Which pixels of a batch of B windows come from which other window.

    Args:
        partners: (B,) int64, the window that a window's rectangle is taken from.
        inside: (B, H, W) bool, the rectangle; empty in windows that stay unmixed.
    """

    partners: torch.Tensor
    inside: torch.Tensor

    @classmethod
    def draw(
        cls, count: int, height: int, width: int, probability: float, device: torch.device | str = "cpu"
    ) -> "Mixture":
        """Draws a mixture with torch's generator: each of `count` windows is mixed with `probability`, always with the
        window that is the same number of places ahead in the batch. A single window stays unmixed."""
        step = int(torch.randint(1, count, ())) if count > 1 else 0
        mixed = (torch.rand(count) < probability) & (step > 0)
        spans = [_spans(count, length) for length in (height, width)]
        inside = spans[0][:, :, None] & spans[1][:, None, :] & mixed[:, None, None]
        return cls(torch.arange(count).roll(-step).to(device), inside.to(device))

    def mixed(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Mixes a value of a batch by its name: `style_ids` and `taught` have one entry for each window."""
        of_windows = {"style_ids": self.mix_styles, "taught": self.mix_taught}
        return of_windows.get(name, self.mix)(values)

    def mix(self, values: torch.Tensor) -> torch.Tensor:
        """Mixes pixels, labels or maps (B, ..., H, W) of the windows."""
        inside = self.inside.reshape(len(values), *[1] * (values.ndim - 3), *self.inside.shape[1:])
        return torch.where(inside, values[self.partners], values)

    def mix_styles(self, style_ids: torch.Tensor) -> torch.Tensor:
        """The styles (B,) of the mixed windows: neutral (0) for one with a rectangle of another style."""
        differs = self.inside.flatten(1).any(1) & (style_ids[self.partners] != style_ids)
        return style_ids.masked_fill(differs, 0)

    def mix_taught(self, taught: torch.Tensor) -> torch.Tensor:
        """Which mixed windows (B,) a teacher is asked for: those with pixels of taught windows alone."""
        return taught & (taught[self.partners] | ~self.inside.flatten(1).any(1))

    def cut(self, rows: slice, columns: slice) -> "Mixture":
        """The mixture restricted to these rows and columns."""
        return Mixture(self.partners, self.inside[:, rows, columns])


def _spans(count: int, length: int) -> torch.Tensor:
    """(count, length) bool: for each window an interval of uniformly drawn side and place among `length` pixels."""
    low, high = SIDES
    sides = torch.rand(count, 1) * (high - low) + low
    begins = torch.rand(count, 1) * (1 - sides)
    middles = (torch.arange(length) + 0.5) / length
    return (middles >= begins) & (middles < begins + sides)
