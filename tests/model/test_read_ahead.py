"""Why: a stage that works ahead must keep order, errors and bounds, and end when nobody needs it."""

import threading
import time

import pytest

from cfsam_hf.model.stages import CHECK_INTERVAL, read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "cfsam-read-ahead"]


def test_items_keep_their_order_and_the_thread_ends():
    assert list(read_ahead(iter(range(100)), 3)) == list(range(100))
    assert list(read_ahead([], 1)) == []
    assert threads() == []


def test_no_more_than_depth_items_wait():
    made, sixth = [], threading.Event()

    def items():
        for item in range(50):
            made.append(item)
            if len(made) == 6:
                sixth.set()
            yield item

    stage = read_ahead(items(), 4)
    assert made == []
    assert next(stage) == 0
    # The one taken, four that wait, and one that finds no room.
    assert sixth.wait(timeout=60)
    time.sleep(2 * CHECK_INTERVAL)
    assert len(made) == 6
    assert list(stage) == list(range(1, 50))


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise OSError("the third")

    stage = read_ahead(items(), 5)
    assert [next(stage), next(stage)] == [1, 2]
    with pytest.raises(OSError, match="the third"):
        next(stage)
    assert threads() == []


def test_interruptions_pass_through():
    def items():
        yield 1
        raise KeyboardInterrupt

    stage = read_ahead(items(), 1)
    assert next(stage) == 1
    with pytest.raises(KeyboardInterrupt):
        next(stage)


def test_a_consumer_that_stops_ends_the_whole_chain():
    closed = []

    def items():
        try:
            yield from range(10**9)
        finally:
            closed.append(threading.current_thread().name)

    def doubled(numbers):
        try:
            for number in numbers:
                yield 2 * number
        finally:
            numbers.close()

    stage = read_ahead(doubled(read_ahead(items(), 2)), 2)
    assert [next(stage), next(stage)] == [0, 2]
    stage.close()
    assert closed == ["cfsam-read-ahead"]
    assert threads() == []


def test_the_stage_works_while_the_consumer_does():
    begun = [threading.Event() for _ in range(5)]

    def items():
        for item, event in enumerate(begun):
            event.set()
            yield item

    for item in read_ahead(items(), 2):
        # The consumer is still busy with this item when the next one is made.
        assert begun[min(item + 1, 4)].wait(timeout=60)


def test_depth_is_checked_at_once():
    with pytest.raises(ValueError, match="depth"):
        read_ahead([], 0)
