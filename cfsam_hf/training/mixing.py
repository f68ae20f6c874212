"""Rectangles of one crop pasted into another, so that a nucleus is not judged by what else its tile holds.

What a small data set teaches about whole tiles (in this one all nuclei are epithelial) does not hold on the next. A
window in which two tiles meet has no such tell. Known as CutMix (Yun et al. 2019), here for maps of labels, and under
a term of agreement (French et al. 2020) if there is one. Labels of boundaries are those of each crop: the edge of a
rectangle, which cuts nuclei as the edge of a window does, is none.
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
        inside: (B, H, W) bool, the rectangle; empty in windows that stay as they are.
    """

    partners: torch.Tensor
    inside: torch.Tensor

    @classmethod
    def draw(
        cls, count: int, height: int, width: int, probability: float, device: torch.device | str = "cpu"
    ) -> "Mixture":
        """A mixture drawn with torch's generator: each of `count` windows is mixed with `probability`, all with
        windows equally far ahead in the batch. A single window stays as it is."""
        step = int(torch.randint(1, count, ())) if count > 1 else 0
        mixed = (torch.rand(count) < probability) & (step > 0)
        spans = [_spans(count, length) for length in (height, width)]
        inside = spans[0][:, :, None] & spans[1][:, None, :] & mixed[:, None, None]
        return cls(torch.arange(count).roll(-step).to(device), inside.to(device))

    def mix(self, values: torch.Tensor) -> torch.Tensor:
        """Pixels, labels or maps (B, ..., H, W) of the windows to those of the mixed windows."""
        inside = self.inside.reshape(len(values), *[1] * (values.ndim - 3), *self.inside.shape[1:])
        return torch.where(inside, values[self.partners], values)

    def cut(self, rows: slice, columns: slice) -> "Mixture":
        """The mixture of these rows and columns alone."""
        return Mixture(self.partners, self.inside[:, rows, columns])


def _spans(count: int, length: int) -> torch.Tensor:
    """(count, length) bool: an interval of `length` pixels for each window, of a side and at a place drawn evenly."""
    low, high = SIDES
    sides = torch.rand(count, 1) * (high - low) + low
    begins = torch.rand(count, 1) * (1 - sides)
    middles = (torch.arange(length) + 0.5) / length
    return (middles >= begins) & (middles < begins + sides)
