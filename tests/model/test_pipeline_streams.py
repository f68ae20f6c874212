"""Why: images pass as a stream whose stages overlap; errors stay with their image, and memory stays flat."""

import threading
import time

import numpy as np
import pytest

from cfsam_hf.model import pipeline_cfsam
from cfsam_hf.model.result import NucleiResult
from cfsam_hf.model.stages import ImageRun

from ..painted_model import paint, painted_pipeline


@pytest.fixture
def pipe():
    return painted_pipeline()


def test_generators_are_read_a_few_images_ahead(pipe):
    taken = []

    def images():
        for seed in range(40):
            taken.append(seed)
            yield paint(64, 64, 3, seed=seed)[0]

    results = pipe(images(), mpp=0.25, batch_size=1)
    assert taken == []
    next(results)
    # On each side of the network some tiles wait and one is in the making; one is in the network, and one came out.
    assert len(taken) <= 2 * (pipeline_cfsam.TILES_AHEAD + 1) + 2
    assert len(list(results)) == 39


def test_a_reader_of_results_who_leaves_ends_the_work(pipe):
    results = pipe((paint(64, 64, 3, seed=seed)[0] for seed in range(1000)), mpp=0.25)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "cfsam-read-ahead"]


def test_a_bad_image_costs_the_others_nothing(pipe):
    good, instance_map, _ = paint(150, 130)
    images = [good, "missing.png", good, np.zeros((5, 5, 7)), good]
    for given in (images, iter(images)):
        results = list(pipe.stream(given, mpp=0.25, batch_size=4))
        assert [type(result) for result in results] == [
            NucleiResult,
            FileNotFoundError,
            NucleiResult,
            ValueError,
            NucleiResult,
        ]
        assert all(np.array_equal(results[index].instance_map, instance_map) for index in (0, 2, 4))
    results = pipe(iter(images), mpp=0.25)
    assert isinstance(next(results), NucleiResult)
    with pytest.raises(FileNotFoundError):
        next(results)


def test_a_network_that_fails_has_its_error_with_the_images_of_the_batch(pipe, monkeypatch):
    good = paint(64, 64, 3)[0]
    bad = np.full((200, 64, 3), 255, np.uint8)
    tile_maps = pipe._tile_maps

    def fail_on_white(values, *options):
        if values.min() > 2:
            raise RuntimeError("no memory left")
        return tile_maps(values, *options)

    monkeypatch.setattr(pipe, "_tile_maps", fail_on_white)
    results = list(pipe.stream([good, bad, good], mpp=0.25, batch_size=1))
    assert [type(result) for result in results] == [NucleiResult, RuntimeError, NucleiResult]
    with pytest.raises(RuntimeError, match="no memory left"):
        pipe(bad, mpp=0.25)


class Starts:
    """Counts the calls of a function, and lets another thread wait until so many of them have started."""

    def __init__(self, function):
        self._function, self._count, self._changed = function, 0, threading.Condition()

    def __call__(self, *arguments, **options):
        with self._changed:
            self._count += 1
            self._changed.notify_all()
        return self._function(*arguments, **options)

    def wait_for(self, count: int) -> bool:
        """Whether `count` calls have started; gives up after a time that only a stage that never starts needs."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count >= count, timeout=60)


def test_reading_and_decoding_go_on_while_the_network_works(pipe, monkeypatch):
    count = 10
    reading, decoding, network = Starts(pipe.preprocess), Starts(pipe.postprocess), pipe._tile_maps
    overlapped = []

    def network_beside_the_others(*arguments, **options):
        image = len(overlapped)
        overlapped.append((reading.wait_for(min(image + 2, count)), decoding.wait_for(image)))
        return network(*arguments, **options)

    monkeypatch.setattr(pipe, "_tile_maps", network_beside_the_others)
    monkeypatch.setattr(pipe, "preprocess", reading)
    monkeypatch.setattr(pipe, "postprocess", decoding)
    assert len(pipe([paint(64, 64, 3)[0]] * count, mpp=0.25, batch_size=1)) == count
    # While the network works on an image, the next one is being read and the one before is being decoded.
    assert overlapped == [(True, True)] * count
    assert pipe.network_clock.busy > 0
    assert 0 <= pipe.network_clock.waiting_share < 1


def test_the_maps_of_a_large_image_are_not_all_held(pipe, monkeypatch):
    image, instance_map, _ = paint(1500, 70, count=60)
    held = []
    add_tile = ImageRun.add_tile

    def record(run, *arguments):
        add_tile(run, *arguments)
        held.append(run.held_rows)

    monkeypatch.setattr(ImageRun, "add_tile", record)
    assert np.array_equal(pipe(image, mpp=0.25).instance_map, instance_map)
    # A row of tiles, and what a nucleus of 20 px can reach into.
    assert 0 < max(held) < 64 + 40


def test_one_pixel_size_for_each_image_of_an_iterator(pipe):
    images = [paint(100, 100)[0]] * 3
    assert len(list(pipe(iter(images), mpp=[0.25] * 3))) == 3
    with pytest.raises(ValueError, match="fewer values than there are images"):
        list(pipe(iter(images), mpp=[0.25] * 2))


def test_short_calls_show_no_bar(pipe, capsys):
    image = paint(100, 100)[0]
    pipe(image, mpp=0.25)
    assert capsys.readouterr().err == ""
    pipe([image] * 2, mpp=0.25, progress=False)
    assert capsys.readouterr().err == ""


def test_the_bar_counts_the_tiles_of_one_image_and_several_images(capsys, monkeypatch):
    monkeypatch.setattr(pipeline_cfsam, "PROGRESS_DELAY", 0.0)
    pipe = painted_pipeline(batch_size=1)
    tile_maps = pipe._tile_maps

    def slowly(*arguments):
        time.sleep(0.12)  # A bar is drawn ten times a second.
        return tile_maps(*arguments)

    monkeypatch.setattr(pipe, "_tile_maps", slowly)
    image = paint(64, 90, 3)[0]
    pipe(image, mpp=0.25, progress=True)
    assert "1/2 [" in capsys.readouterr().err
    pipe([image] * 2, mpp=0.25, progress=True)
    assert "image/s" in capsys.readouterr().err
