"""Why: small slides must not wait for big ones, and a region that fails must neither vanish nor stop the rest."""

import numpy as np

from cfsam_hf.inference.cluster.region_queue import TRIES, OpenSlide, RegionQueue

NODES = {"a", "b"}


def opened(name, count):
    return OpenSlide(name, np.arange(count))


def queue_of(*slides):
    queue = RegionQueue()
    for slide in slides:
        queue.add(slide)
    return queue


def drain(queue, node="a"):
    """Every region that one worker gets, in order, when all of them succeed."""
    order = []
    while (found := queue.take(node, NODES)) is not None:
        slide, number = found
        slide.succeed(number)
        order.append((slide.item, number))
    return order


def test_each_region_comes_once_and_small_slides_before_big_ones():
    big, small = opened("big", 50), opened("small", 3)
    order = drain(queue_of(big, small))
    assert order == [*(("small", n) for n in range(3)), *(("big", n) for n in range(50))]
    assert big.is_finished
    assert small.is_finished


def test_a_failed_region_waits_for_a_machine_that_is_about_to_come():
    slide = opened("one", 1)
    queue = queue_of(slide)
    queue.take("a", {"a", ""})
    slide.fail(0, "a", OSError("full"))
    assert queue.take("a", {"a", ""}) is None
    assert queue.take("b", {"a", "b"}) == (slide, 0)
    slide.fail(0, "b", OSError("full"))
    assert queue.take("a", {"a", "b"}) == (slide, 0)


def test_a_small_slide_that_comes_later_passes_the_big_one():
    big, small = opened("big", 50), opened("small", 3)
    queue = queue_of(big)
    taken = [queue.take("a", NODES) for _ in range(5)]
    queue.add(small)
    assert [queue.take("b", NODES)[0] for _ in range(3)] == [small] * 3
    assert [number for _, number in taken] == list(range(5))
    assert not small.is_finished


def test_a_region_fails_for_good_after_three_tries_and_the_others_are_done():
    slide = opened("slide", 4)
    queue = queue_of(slide)
    order, error = [], OSError("damaged")
    while (found := queue.take("a", {"a"})) is not None:
        order.append(found[1])
        if found[1] == 1:
            slide.fail(1, "a", error)
        else:
            slide.succeed(found[1])
    assert order.count(1) == TRIES == 3
    assert sorted(set(order)) == [0, 1, 2, 3]
    assert slide.failed == {1: error}
    assert slide.is_finished


def test_a_retry_goes_to_a_machine_where_the_region_has_not_failed():
    slide = opened("slide", 2)
    slide.take("full", NODES)
    slide.fail(0, "full", OSError("No space left"))
    assert slide.take("full", {"full", "good"}) == 1
    assert slide.take("full", {"full", "good"}) is None
    assert slide.left == 1
    assert slide.take("good", {"full", "good"}) == 0


def test_a_retry_takes_the_only_machine_that_is_left():
    slide = opened("slide", 1)
    slide.take("a", {"a"})
    slide.fail(0, "a", OSError())
    assert slide.take("a", {"a"}) == 0
