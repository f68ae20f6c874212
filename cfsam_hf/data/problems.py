"""Reporting what is wrong with a data set: an error at the first problem, or a list of all of them on request."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected_problems", default=None)


def refuse(error: Exception) -> None:
    """Raise `error`, or note its message within `collecting_problems`.

    If this call returns, the reader leaves out what the error is about.
    """
    collected = _COLLECTED.get()
    if collected is None:
        raise error
    collected.append(str(error))


def is_collecting() -> bool:
    """Whether `refuse` notes instead of raising."""
    return _COLLECTED.get() is not None


def noted() -> bool:
    """Whether a problem has been noted already."""
    return bool(_COLLECTED.get())


@contextmanager
def collecting_problems() -> Iterator[list[str]]:
    """Note problems instead of raising; yields the list of their messages.

    >>> with collecting_problems() as problems:
    ...     refuse(ValueError("a.png: too small"))
    >>> problems
    ['a.png: too small']
    """
    problems: list[str] = []
    token = _COLLECTED.set(problems)
    try:
        yield problems
    finally:
        _COLLECTED.reset(token)
