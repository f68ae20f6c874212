"""What `cfsam segment` prints while it runs."""

import contextlib
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .messages import describe, one_line
from .terminal import say

if TYPE_CHECKING:
    from ..inference import Outcome
    from ..inference.slide_run import SlideDone, SlideProgress
    from ..model.result import NucleiResult

# Seconds between two lines about the progress of slides.
PROGRESS_INTERVAL = 10.0

# How functions name the options of the command in their errors.
OPTION_IN_MESSAGE = re.compile(r"\b(max_pixels|mpp|page|tissue)=")


class SegmentReport:
    """Prints a line about each image.

    Args:
        total: the number of images.
        debug: whether to print tracebacks.
    """

    def __init__(self, total: int, *, debug: bool):
        self.total, self.debug = total, debug
        self.position = self.failed = self.skipped = 0
        self.errors: dict[str, str] = {}
        """What was said of the images that failed, by name."""
        self._progress: SlideProgress | None = None
        self._shown_at = 0.0

    def show(self, outcome: "Outcome") -> None:
        """Prints the outcome of an image or the progress of a slide; failures go to stderr."""
        from ..inference import Current, Done, Failed
        from ..inference.slide_run import SlideDone, SlideProgress

        if isinstance(outcome, SlideProgress):
            self._show_progress(outcome)
            return
        if isinstance(outcome, Current):
            self.skipped += 1
            return
        if self.position == 0:
            self._show_skipped()
        self.position += 1
        if isinstance(outcome, Failed):
            self._show_failure(outcome.job.source.name, outcome.error)
        elif isinstance(outcome, Done):
            self._show_done(outcome, _counts(outcome.result), outcome.files.get("overlay", outcome.files["geojson"]))
        elif isinstance(outcome, SlideDone):
            self._show_done(
                outcome, self._slide_counts(outcome), outcome.files.get("overview", outcome.files["table"])
            )
        self._progress = None

    def _show_done(self, outcome: "Outcome", text: str, shown: Path | str) -> None:
        todo = self.total - self.skipped
        counter = f"[{self.position}/{todo}] " if todo > 1 else ""
        clock = f"{'at ' * (todo > 1)}{outcome.seconds:.1f} s"
        print(one_line(f"{counter}{outcome.job.source.name}: {text}, {clock} -> {shown}"), flush=True)

    def _show_progress(self, progress: "SlideProgress") -> None:
        self._progress = progress
        if progress.regions < progress.total_regions and progress.seconds - self._shown_at > PROGRESS_INTERVAL:
            self._shown_at = progress.seconds
            left = progress.seconds_left
            print(
                one_line(
                    f"{progress.job.source.name}: {_measure(progress.mm2)} of {_measure(progress.total_mm2)} mm2, "
                    f"{_measure(progress.rate)} mm2/min" + ("" if left is None else f", {_duration(left)} left")
                ),
                flush=True,
            )

    def _slide_counts(self, done: "SlideDone") -> str:
        """For example "9,412 nuclei (epithelial 300, inflammatory 9,112), 1.20 mm2 of tissue, 0.55 mm2/min"."""
        record = done.record
        types = [row for row in done.rows if row["type"] > 0]
        text = _numbers(record["nuclei"], [(row["type_name"], row["count"]) for row in types])
        if record["tissue_area_mm2"] is not None:
            text += f", {_measure(record['tissue_area_mm2'])} mm2 of tissue"
        if self._progress is not None and done.waiting_share is not None:
            text += (
                f", {_measure(self._progress.rate)} mm2/min, network idle for {100 * done.waiting_share:.1f} % of the "
                "time"
            )
        return text + _stated(record["mpp"], record["mpp_source"])

    def finish(self, images: list[str], summary: Path | str, *, missing: int) -> None:
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
        self.errors[name] = text
        say(f"error: {text if name in text else f'{name}: {text}'}")


def as_options(text: str) -> str:
    """A message of the package in the words of the command, with the options of functions as those of `cfsam segment`.

    >>> as_options("choose one with page=N")
    'choose one with --page N'
    """
    return OPTION_IN_MESSAGE.sub(lambda found: f"--{found[1].replace('_', '-')} ", text)


def _counts(result: "NucleiResult") -> str:
    """For example "412 nuclei (epithelial 300, inflammatory 112)", and the pixel size if the file states it."""
    from ..model.result import type_styles

    count = result.table["type"].value_counts()
    types = [(s.name, int(count.get(s.type_id, 0))) for s in type_styles(result)] if result.type_names else []
    return _numbers(len(result), types) + _stated(result.mpp, result.mpp_source)


def _numbers(nuclei: int, types: Sequence[tuple[str, int]]) -> str:
    text = "1 nucleus" if nuclei == 1 else f"{nuclei:,} nuclei"
    return f"{text} ({', '.join(f'{name} {count:,}' for name, count in types)})" if types and nuclei else text


def _stated(mpp: float | None, source: str | None) -> str:
    from ..model.pixel_size import GIVEN

    return "" if mpp is None or source in (None, GIVEN) else f", {mpp:.4g} µm per pixel ({source})"


def _measure(value: float) -> str:
    """For example "0.055", "1.20" or "310.45"."""
    return f"{value:.2f}" if value == 0 or value >= 1 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    """For example "40 s", "12 min" or "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
