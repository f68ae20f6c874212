"""Signals that end a run (Ctrl-C, Slurm, Kubernetes, spot machines, a closed terminal), after a checkpoint."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SAME_REQUEST = 1.0
"""Seconds within which further signals count as the same request: launchers repeat what a terminal sends to all."""


class Abandoned(BaseException):
    """A signal came during work that may be dropped; see [`Interruption.abandoning`].

    Like `KeyboardInterrupt`, it is not an `Exception`, so that code which skips failures does not swallow it.
    """


class Interruption:
    """While entered, notes the first signal of `SIGNALS` instead of letting it end the process.

    A later signal raises `KeyboardInterrupt`, so that a second Ctrl-C ends a process that hangs. A signal that was
    ignored before stays ignored, as `nohup` and background jobs require.

    Attributes:
        signal_number: of the signal; 0 if none came.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._received_at = 0.0
        self._may_abandon = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:  # not in the main thread: whoever runs this thread handles signals
                break
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal_number:
            self.signal_number, self._received_at = number, now
        elif now - self._received_at > SAME_REQUEST:
            raise KeyboardInterrupt
        if self._may_abandon:
            self._may_abandon = False
            raise Abandoned

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Work that a resumed run repeats, such as a validation: a signal ends it at once.

        Raises:
            Abandoned: in the block, when a signal comes or has come.
        """
        self._may_abandon = True
        try:
            if self.signal_number:
                raise Abandoned
            yield
        finally:
            self._may_abandon = False


def ignore_signals(_worker: int) -> None:
    """For data loader workers: they end when their process does, not when a signal goes to the whole group."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
