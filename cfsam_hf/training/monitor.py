"""Shows the progress of a run: the bar, the log and the trackers."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from .recipe import Recipe
from .run_log import RunLog

logger = logging.getLogger(__name__)


class RunMonitor:
    """Reports the steps of a run on the main process; on the others it only counts them.

    Times cover steps only, without checkpoints, validations and pictures.

    Args:
        recipe: of the run.
        accelerator: whose trackers get the values.
        folder: of the run.
        step: steps done before.
        crops_per_step: over all processes.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, folder: Path, step: int, crops_per_step: int):
        self.recipe, self.accelerator, self.crops_per_step = recipe, accelerator, crops_per_step
        self.first_step = self.step = step
        self.log = RunLog(folder, step) if accelerator.is_main_process else None
        self.seconds, self.seconds_waiting = 0.0, 0.0
        self.names: list[str] = []
        self.since_log: list[list[float]] = []
        self.bar = tqdm(disable=True)

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Shows the bar within the block if there is a terminal and the recipe has `progress` on."""
        # None: only on a terminal; elsewhere the log has the same values.
        disable = None if self.recipe.run.progress and self.accelerator.is_main_process else True
        steps = self.recipe.optimization.steps
        with tqdm(total=steps, initial=self.step, unit="step", disable=disable) as self.bar:
            yield

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time in the block as waiting for data."""
        began = time.monotonic()
        yield
        self.seconds_waiting += time.monotonic() - began

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Counts the time in the block as that of a step."""
        began = time.monotonic()
        yield
        self.step += 1
        self.seconds += time.monotonic() - began

    @property
    def tiles_per_second(self) -> float:
        """Crops of all processes per second of the steps' time."""
        return (self.step - self.first_step) * self.crops_per_step / max(self.seconds, 1e-9)

    def note(self, names: Sequence[str], values: Sequence[float], gradient_norm: float, learning_rate: float) -> None:
        """Records the loss and terms of a step, and advances the bar, which estimates the time left."""
        self.names, self.learning_rate = list(names), learning_rate
        self.since_log.append([*values, gradient_norm])
        self.bar.update()
        if self.bar.disable:
            return
        heads: dict[str, float] = {}
        for name, value in zip(names[1:], values[1:], strict=True):
            if not name.startswith("initial_"):
                head = name.partition("_")[0]
                heads[head] = heads.get(head, 0.0) + value
        text = {name: f"{value:.3g}" for name, value in {"loss": values[0], **heads, "rate": learning_rate}.items()}
        self.bar.set_postfix({**text, "tiles/s": f"{self.tiles_per_second:.1f}"}, refresh=False)

    def write(self, batches_left_out: int) -> None:
        """Writes averages since the last line to the log and to the trackers.

        Raises:
            OSError: the disk is full.
        """
        if self.log is None or not self.since_log:
            return
        *values, norm = np.mean(self.since_log, axis=0).tolist()
        self.since_log.clear()
        left = self.recipe.optimization.steps - self.step
        record = {
            "step": self.step,
            **{name: round(value, 5) for name, value in zip(self.names, values, strict=True)},
            "gradient_norm": round(norm, 4),
            "learning_rate": self.learning_rate,
            "tiles_per_second": round(self.tiles_per_second, 2),
            "data_wait_share": round(self.seconds_waiting / self.seconds, 4),
            "minutes_left": round(left * self.seconds / (self.step - self.first_step) / 60, 1),
            "batches_left_out": batches_left_out,
        }
        self.log.write(record)
        self.accelerator.log({f"train/{name}": value for name, value in record.items() if name != "step"}, self.step)
        if self.bar.disable:
            logger.info(
                "step %d loss %.4f, %.1f tiles/s, %.0f %% of the time waiting for data, %.0f minutes left",
                *(self.step, record["loss"], record["tiles_per_second"], 100 * record["data_wait_share"]),
                record["minutes_left"],
            )
