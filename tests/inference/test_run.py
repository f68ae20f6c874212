"""Why: a library user must get an outcome for each job, in order, whatever fails, and complete files when leaving."""

import contextlib
import doctest
import os
import pickle
import signal
from pathlib import PurePath

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile

from cfsam_hf.inference import (
    DEFAULT_KINDS,
    OUTPUT_KINDS,
    ArraySource,
    Current,
    Done,
    Failed,
    FileSink,
    ImageSource,
    Job,
    RunRecord,
    run_jobs,
)
from cfsam_hf.inference import run as runs

from ..export_cases import label_components, make_result
from ..painted_model import paint, painted_pipeline


def dark_pixels(image, **options):
    """Stands in for the network: dark pixels are nuclei."""
    if image.shape[0] == 13:
        raise ValueError("thirteen rows are too many")
    return make_result(label_components(image.mean(axis=2) < 100), mpp=options.get("mpp"))


def picture(height=24):
    image = np.full((height, 30, 3), 230, np.uint8)
    image[3:8, 4:10] = 40
    return image


def array_jobs(*heights):
    return [
        Job(ArraySource(picture(height), f"{index}.png"), PurePath(str(index))) for index, height in enumerate(heights)
    ]


def run(folder, jobs, pipe=dark_pixels, options=None, **more):
    with RunRecord(folder) as record:
        return list(run_jobs(jobs, pipe, FileSink(folder), record, options, **more))


def test_outcomes_in_the_order_of_the_jobs(tmp_path):
    jobs = array_jobs(24, 13, 24, 13, 24)
    jobs.insert(2, Job(ImageSource(tmp_path / "nowhere.png", "nowhere.png"), PurePath("nowhere")))
    outcomes = run(tmp_path, jobs, options={"mpp": 0.25})
    assert [type(outcome) for outcome in outcomes] == [Done, Failed, Failed, Done, Failed, Done]
    assert [outcome.job for outcome in outcomes] == jobs
    assert str(outcomes[1].error) == "thirteen rows are too many"
    assert isinstance(outcomes[2].error, FileNotFoundError)
    seconds = [outcome.seconds for outcome in outcomes]
    assert seconds == sorted(seconds)
    done = outcomes[0]
    assert done.result.image_name == "0.png"
    assert done.files["table"] == tmp_path / "0.parquet"
    assert all(path.is_file() for path in done.files.values())
    assert pd.read_csv(tmp_path / "summary.csv")["image"].unique().tolist() == ["0.png", "2.png", "4.png"]


def test_jobs_travel_to_other_processes(tmp_path):
    PIL.Image.fromarray(picture()).save(tmp_path / "a.png")
    job = Job(ImageSource(tmp_path / "a.png", "a.png"), PurePath("a"))
    assert pickle.loads(pickle.dumps(job)) == job
    assert len(pickle.dumps(job)) < 1000


def test_current_jobs_are_skipped(tmp_path):
    jobs = array_jobs(24, 24)
    run(tmp_path, jobs)
    assert [type(outcome) for outcome in run(tmp_path, jobs, resume=True)] == [Current, Current]
    assert [type(outcome) for outcome in run(tmp_path, jobs, resume=False)] == [Done, Done]
    (tmp_path / "1.geojson").unlink()
    assert [type(outcome) for outcome in run(tmp_path, jobs, resume=True)] == [Current, Done]
    # These change how fast it goes and not what comes out.
    for options in ({"batch_size": 3}, {"max_pixels": 10**6}, {"progress": False}):
        assert [type(outcome) for outcome in run(tmp_path, jobs, options=options, resume=True)] == [Current, Current]
    for options in ({"mpp": 0.5}, {"threshold": 0.5}, {"decoding": {"minimum_area": 9}}, {"anything": 1}):
        assert [type(outcome) for outcome in run(tmp_path, jobs, options=options, resume=True)] == [Done, Done]


def test_who_leaves_early_has_whole_files_and_a_summary(tmp_path):
    with RunRecord(tmp_path) as record:
        outcomes = run_jobs(array_jobs(*[24] * 8), dark_pixels, FileSink(tmp_path), record)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                if outcome.job.source.name == "2.png":
                    break
    done = pd.read_csv(tmp_path / "summary.csv")["image"].unique().tolist()
    assert done[:3] == ["0.png", "1.png", "2.png"]
    assert len(done) < 8
    for ending in (".parquet", ".geojson", "_instances.tif", "_overlay.png"):
        assert len(list(tmp_path.glob(f"*{ending}"))) == len(done)


def test_each_image_has_its_own_pixel_size(tmp_path):
    pipe = painted_pipeline()
    image = paint(96, 96, count=8)[0]
    jobs = []
    for name, dpi in (("a.png", 25_400 / 0.25), ("b.png", 25_400 / 0.5), ("c.png", None)):
        PIL.Image.fromarray(image).save(tmp_path / name, **({} if dpi is None else {"dpi": (dpi, dpi)}))
        jobs.append(Job(ImageSource(tmp_path / name, name), PurePath(name[0])))
    with pytest.warns(UserWarning, match="mpp is not given"):
        results = [outcome.result for outcome in run(tmp_path / "out", jobs, pipe)]
    assert [result.mpp for result in results] == [pytest.approx(0.25, rel=1e-3), pytest.approx(0.5, rel=1e-3), None]
    assert [result.mpp_source for result in results] == ["PNG resolution", "PNG resolution", None]
    np.testing.assert_array_equal(results[0].instance_map, pipe(image, mpp=0.25).instance_map)
    np.testing.assert_array_equal(results[1].instance_map, pipe(image, mpp=results[1].mpp).instance_map)
    with pytest.warns(UserWarning, match=r"b\.png: mpp=0\.24 is used although the file states 0\.5"):
        results = [outcome.result for outcome in run(tmp_path / "out", jobs, pipe, {"mpp": 0.24})]
    assert [result.mpp for result in results] == [0.24] * 3
    assert {result.mpp_source for result in results} == {"given"}


def run_and_be_killed(folder, jobs, change: int) -> int:
    """Runs in a process of its own that kills itself before the given change of a name; returns its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    changes = 0

    def counted(function):
        def act(*arguments, **options):
            nonlocal changes
            changes += 1
            if changes == change:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return act

    os.replace, os.unlink = counted(os.replace), counted(os.unlink)
    try:
        run(folder, jobs)
    finally:
        os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_step_an_images_files_are_those_of_one_run(tmp_path):
    written = sorted(OUTPUT_KINDS[kind].ending for kind in DEFAULT_KINDS)
    killed, change = 0, 0
    while True:
        change += 1
        folder = tmp_path / str(change)
        with RunRecord(folder) as record:  # of other options: other files, all of which must go
            folder.mkdir()
            list(run_jobs(array_jobs(24), dark_pixels, FileSink(folder, ["csv", "coco"]), record))
        if run_and_be_killed(folder, array_jobs(50), change) == 0:
            break
        killed += 1
        if (folder / "0.parquet").exists():
            # The file that stands for the set: all others are there, and none of the other run.
            found = sorted(path.name[1:] for path in folder.glob("0*"))
            if found == written:
                assert tifffile.imread(folder / "0_instances.tif").shape == (50, 30)
            else:
                assert found == [".parquet", "_coco.json", "_nuclei.csv"]
        assert [type(outcome) for outcome in run(folder, array_jobs(50), resume=True)] in ([Done], [Current])
        assert sorted(path.name[1:] for path in folder.glob("0*")) == written
        assert [path.name for path in folder.iterdir() if path.name.startswith(".cfsam-")] == []
        assert pd.read_csv(folder / "summary.csv")["image_height_px"].tolist() == [50] * 4
    assert killed > 10


def test_the_example_in_the_docstring_runs(tmp_path, monkeypatch):
    (tmp_path / "tiles").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(paint(64, 64, count=3)[0]).save(tmp_path / "tiles" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.pipeline", lambda task: painted_pipeline())
    [example] = doctest.DocTestFinder(recurse=False).find(runs.run_jobs, globs={})
    printed: list[str] = []
    lines = [part.source for part in example.examples]
    scope: dict = {"print": lambda *words: printed.append(" ".join(map(str, words)))}
    for line in lines:
        exec(line, scope)
    assert printed == ["a.png Done", "b.png Done"]
    assert (tmp_path / "out" / "summary.csv").is_file()
