"""Results come back in order, few wait at a time, and an error drops what has not started."""

import threading

import pytest

from cfsam_hf.inference.write_behind import WriteBehind


def test_results_keep_their_order_and_at_most_so_many_wait():
    most, given = 0, []
    with WriteBehind[int](2) as writer:
        for number in range(8):
            given += writer.submit(lambda n: n * n, number)
            most = max(most, number + 1 - len(given))
        given += writer.finish()
    assert given == [number**2 for number in range(8)]
    assert most <= 2


def test_an_error_drops_tasks_that_have_not_started():
    started, go_on, done = threading.Event(), threading.Event(), []

    def first() -> None:
        started.set()
        go_on.wait(10)
        done.append(1)

    def leave_early() -> None:
        with WriteBehind[None](5) as writer:
            list(writer.submit(first))
            list(writer.submit(done.append, 2))
            assert started.wait(10)
            threading.Timer(0.1, go_on.set).start()
            raise KeyError("left early")

    with pytest.raises(KeyError, match="left early"):
        leave_early()
    assert done == [1]


def test_the_error_of_a_task_is_raised_with_its_result():
    with pytest.raises(ZeroDivisionError), WriteBehind[float](0) as writer:
        list(writer.submit(lambda: 1 / 0))
