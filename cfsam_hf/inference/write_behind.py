"""Writing in a thread while the network works, with results in the order of submission."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Result = TypeVar("Result")


class WriteBehind(Generic[Result]):
    """A thread that works through tasks one after the other. As a context manager it ends with the last of them; after
    an exception, tasks that have not started are dropped.

    Args:
        ahead: tasks that may wait before [`submit`] does, each with its arguments in memory.
    """

    def __init__(self, ahead: int):
        self._ahead = ahead
        # One thread, so that the order is kept.
        self._pool = ThreadPoolExecutor(1, "cfsam-write")
        self._waiting: deque[Future[Result]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for future in self._waiting:
                future.cancel()
        self._pool.shutdown()

    def submit(self, task: Callable[..., Result], *arguments: Any) -> Iterator[Result]:
        """Adds a task and yields the results that are ready, or must be awaited so that no more than `ahead` wait."""
        self._waiting.append(self._pool.submit(task, *arguments))
        while len(self._waiting) > self._ahead or (self._waiting and self._waiting[0].done()):
            yield self._waiting.popleft().result()

    def finish(self) -> Iterator[Result]:
        """Yields the results that are left."""
        while self._waiting:
            yield self._waiting.popleft().result()
