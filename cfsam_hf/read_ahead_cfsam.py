"""A stage of work that runs ahead of its consumer, in a thread of its own."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

# How often a stage that cannot hand on its item looks whether it is still wanted, in seconds.
CHECK_INTERVAL = 0.1
# How long to wait for the item that a stage is making when it is wanted no more.
LONGEST_ITEM = 60.0
_END = object()


def read_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """
    The items in their order, made in a thread while the consumer is busy with those before.

    The thread begins with the first item that is asked for. At most `depth` finished items wait and one more is in the
    making, so what is held is bounded. An exception comes where the item would have come. When the consumer stops, by
    an error, Ctrl-C or `close()`, so does the thread, after the item it is at.

    Args:
        items (`Iterable`): a generator is closed in the thread in which it ran.
        depth (`int`): at least 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    return _read_ahead(items, depth)


def _read_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    finished: queue.Queue = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def hand_on(item, error=None) -> bool:
        while not unwanted.is_set():
            try:
                finished.put((item, error), timeout=CHECK_INTERVAL)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not hand_on(item):
                    return
            hand_on(_END)
        except BaseException as error:  # everything is told to the consumer, as if it had happened there
            hand_on(_END, error)
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, name="cfsam-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = finished.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        unwanted.set()
        thread.join(LONGEST_ITEM)
