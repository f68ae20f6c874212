"""Reports problems of a data set: an error at the first one, or a list of all of them on request."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected_problems", default=None)


def refuse(error: Exception) -> None:
    """Raises `error`, or notes its message within `collecting_problems`.

    If this call returns, the reader skips what the error refers to.
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
    """Notes problems instead of raising; yields the list of their messages.

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
