"""Which region comes next: the regions of the slides that are in progress, and what has failed of them."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TRIES = 3
"""How often a region is tried."""


@dataclass(eq=False)
class OpenSlide:
    """
    A slide whose regions are being segmented.

    Attributes:
        item: what the caller knows of it.
        todo: (N,) numbers of the regions to do.
        running: regions at work.
        failed: errors of regions that have failed for good, by number.
    """

    item: Any
    todo: np.ndarray
    running: int = 0
    failed: dict[int, BaseException] = field(default_factory=dict)
    _next: int = 0
    _retries: list[int] = field(default_factory=list)
    # The machines of the failed tries of a region.
    _failures: dict[int, list[str]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Regions that wait."""
        return len(self.todo) - self._next + len(self._retries)

    @property
    def is_finished(self) -> bool:
        """Whether no region waits or is at work."""
        return not self.left and not self.running

    def take(self, node: str, nodes: Set[str]) -> int | None:
        """
        The next region for a worker, None if there is none for it.

        A region is tried again on another machine than those on which it failed, such as one with a full disk, as
        long as there is another.

        Args:
            node: the machine of the worker.
            nodes: the machines that have workers, and "" for one that may be about to have one.
        """
        for number in self._retries:
            failed_on = set(self._failures[number])
            if node not in failed_on or nodes <= failed_on:
                self._retries.remove(number)
                self.running += 1
                return number
        if self._next < len(self.todo):
            self._next += 1
            self.running += 1
            return int(self.todo[self._next - 1])
        return None

    def succeed(self, number: int) -> None:
        """Notes that a region is done."""
        self.running -= 1
        self._failures.pop(number, None)

    def fail(self, number: int, node: str, error: BaseException) -> None:
        """Notes that a try has failed: the region waits again, or after `TRIES` tries has failed for good."""
        self.running -= 1
        failures = self._failures.setdefault(number, [])
        failures.append(node)
        if len(failures) < TRIES:
            self._retries.append(number)
        else:
            self.failed[number] = error


class RegionQueue:
    """
    The slides that are in progress. The slide with the fewest regions left comes first: small slides do not wait
    for big ones, and slides are completed one after the other.
    """

    def __init__(self) -> None:
        self.slides: list[OpenSlide] = []

    def __len__(self) -> int:
        return len(self.slides)

    def __iter__(self) -> Iterator[OpenSlide]:
        return iter(self.slides)

    def add(self, slide: OpenSlide) -> None:
        """Adds a slide."""
        self.slides.append(slide)

    def remove(self, slide: OpenSlide) -> None:
        """Removes a slide, which is finished."""
        self.slides.remove(slide)

    def take(self, node: str, nodes: Set[str]) -> tuple[OpenSlide, int] | None:
        """The next region for a worker, and its slide; see [`OpenSlide.take`]."""
        for slide in sorted(self.slides, key=lambda slide: slide.left):
            number = slide.take(node, nodes)
            if number is not None:
                return slide, number
        return None
