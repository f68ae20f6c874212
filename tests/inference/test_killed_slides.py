"""Why: a slide takes hours; a run that is killed at any moment must be resumed without loss and without a trace."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from .. import REPOSITORY
from .killed_slides import regions_of
from .slide_cases import painted_slide

pytestmark = pytest.mark.slow

REGIONS, MOMENTS = 6, 16


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return painted_slide(tmp_path_factory.mktemp("slide"))[0].source.path


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.inference.killed_slides", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)


def outputs(out):
    """The content of all files in an output folder; of the hidden ones, which state times, the names alone.

    The record of a killed run stays: no other run can know that its owner is dead.
    """
    files = [path for path in out.rglob("*") if path.is_file() and not path.match(".cfsam/run-*.jsonl")]
    return {
        path.relative_to(out).as_posix(): None if path.relative_to(out).parts[0].startswith(".") else path.read_bytes()
        for path in files
    }


def test_runs_killed_before_any_change_of_the_folder_are_resumed_to_the_same_files(slide, tmp_path):
    said, _ = start("moments", slide, tmp_path, MOMENTS).communicate()
    expected = outputs(tmp_path / "whole")
    assert len([name for name in expected if not name.startswith(".")]) == 6
    found = [json.loads(line) for line in said.splitlines()]
    assert len(found) == MOMENTS
    for run in found:
        assert run["statuses"][1] == 0, run
        # What was complete is not done again; a region can be complete before it is noted.
        assert not set(run["before"]) & set(run["after"]), run
        assert len(run["before"]) + len(run["after"]) in (REGIONS - 1, REGIONS), run
        assert outputs(tmp_path / str(run["moment"])) == expected, run
    # Runs differ in how often they change the folder, so that the last moment may come too late.
    assert all(run["statuses"][0] == -signal.SIGKILL for run in found[:-1])
    assert {len(run["before"]) for run in found} >= {0, 2, 4, REGIONS}


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_files(slide, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start("segment", slide, whole).wait() == 0
    for done in (1, 3, 5):
        process = start("segment", slide, out, "--resume")
        while len(regions_of(out)) < done and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert start("segment", slide, out, "--resume").wait() == 0
    regions = regions_of(out)
    assert sorted(set(regions)) == sorted(set(regions_of(whole)))
    assert len(regions) == len(set(regions))
    assert outputs(out) == outputs(whole)
