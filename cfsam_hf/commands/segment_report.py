"""What `cfsam segment` prints while it runs."""

import contextlib
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .messages import describe, one_line
from .terminal import say

if TYPE_CHECKING:
    from ..inference import Outcome
    from ..model.result import NucleiResult

# How functions name the options of the command in their errors.
OPTION_IN_MESSAGE = re.compile(r"\b(max_pixels|mpp|page)=")


class SegmentReport:
    """Prints a line about each image.

    Args:
        total: the number of images.
        debug: whether to print tracebacks.
    """

    def __init__(self, total: int, *, debug: bool):
        self.total, self.debug = total, debug
        self.position = self.failed = self.skipped = 0

    def show(self, outcome: "Outcome") -> None:
        """Prints the outcome of an image; failures go to stderr."""
        from ..inference import Current, Done, Failed

        if isinstance(outcome, Current):
            self.skipped += 1
            return
        if self.position == 0:
            self._show_skipped()
        self.position += 1
        if isinstance(outcome, Failed):
            self._show_failure(outcome.job.source.name, outcome.error)
        elif isinstance(outcome, Done):
            todo = self.total - self.skipped
            counter = f"[{self.position}/{todo}] " if todo > 1 else ""
            clock = f"{'at ' * (todo > 1)}{outcome.seconds:.1f} s"
            shown = outcome.files.get("overlay", outcome.files["geojson"])
            name = outcome.job.source.name
            print(one_line(f"{counter}{name}: {_counts(outcome.result)}, {clock} -> {shown}"), flush=True)

    def finish(self, images: list[str], summary: Path, *, missing: int) -> None:
        """Prints what is in the summary, and how many images failed or were `missing`."""
        if self.position == 0:
            self._show_skipped()
        if images:
            others = len(images) - (self.total - self.failed)
            note = f" ({others} from other runs)" if others > 0 else ""
            print(one_line(f"summary of {len(images)} image{'s' * (len(images) > 1)}{note} -> {summary}"))
        if self.failed or missing:
            say(f"{self.failed + missing} of {self.total + missing} images could not be segmented")

    def _show_skipped(self) -> None:
        if self.skipped:
            print(f"{self.skipped} of {self.total} images are already done", flush=True)

    def _show_failure(self, name: str, error: Exception) -> None:
        self.failed += 1
        if self.debug:
            traceback.print_exception(error)
        text = as_options(describe(error, " (--debug shows where)"))
        say(f"error: {text if name in text else f'{name}: {text}'}")


def as_options(text: str) -> str:
    """A message of the package in the words of the command, with the options of functions as those of `cfsam segment`.

    >>> as_options("choose one with page=N")
    'choose one with --page N'
    """
    return OPTION_IN_MESSAGE.sub(lambda found: f"--{found[1].replace('_', '-')} ", text)


def _counts(result: "NucleiResult") -> str:
    """For example "412 nuclei (epithelial 300, inflammatory 112)", and the pixel size if the file states it."""
    from ..model.pixel_size import GIVEN
    from ..model.result import type_styles

    text = "1 nucleus" if len(result) == 1 else f"{len(result):,} nuclei"
    if result.type_names and len(result):
        count = result.table["type"].value_counts()
        text += f" ({', '.join(f'{s.name} {int(count.get(s.type_id, 0)):,}' for s in type_styles(result))})"
    if result.mpp is not None and result.mpp_source not in (None, GIVEN):
        text += f", {result.mpp:.4g} µm per pixel ({result.mpp_source})"
    return text


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints each distinct warning meant for users once, as a line, and no others."""
    seen = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        # The pipeline addresses people who write Python; here the same thing is an option.
        text = one_line(as_options(" ".join(str(message).split()).replace("pass mpp=...", "give --mpp")))
        if issubclass(category, (UserWarning, RuntimeWarning)) and text not in seen:
            seen.add(text)
            say(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield
