"""Why: whatever is killed or broken in a cluster, nothing is lost or counted twice, and what failed is named."""

import errno
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cfsam_hf.commands import segment, terminal
from cfsam_hf.inference.record import RECORDS_NAME
from cfsam_hf.inference.run import Failed
from cfsam_hf.inference.slide_run import SlideDone, SlideProgress
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline

from ... import REPOSITORY
from ..slide_cases import painted_pipeline
from .cases import damage_tile, files_of, kill, ray_outcomes, run_plain, slide_job, worker_pids, write_slides

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="the extra cluster is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.fixture
def cluster():
    """A Ray of two machines, one CPU each, on this machine."""
    machines = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    machines.add_node(num_cpus=1)
    ray.init(address=machines.address, log_to_driver=False)
    yield machines
    ray.shutdown()
    machines.shutdown()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return write_slides(tmp_path_factory.mktemp("slides"))


@pytest.fixture(scope="module")
def expected(jobs, tmp_path_factory):
    """The files of the plain loop."""
    out = tmp_path_factory.mktemp("plain")
    run_plain(jobs, out)
    return files_of(out)


def names_of(outcomes, kind):
    return [outcome.job.target.name for outcome in outcomes if isinstance(outcome, kind)]


def test_killed_workers_and_a_lost_machine_change_nothing(cluster, jobs, expected, tmp_path):
    [machine] = cluster.worker_nodes
    # A machine is lost with SIGKILL too, its object store and its worker included.
    faults = {
        3: lambda: kill(worker_pids()[0]),
        8: lambda: kill(worker_pids()[0]),
        13: lambda: cluster.remove_node(machine, allow_graceful=False),
    }
    outcomes = []
    for outcome in ray_outcomes(jobs, tmp_path / "out"):
        outcomes.append(outcome)
        fault = faults.pop(len(names_of(outcomes, SlideProgress)), None)
        if fault is not None:
            fault()
    assert not faults
    assert len(names_of(outcomes, SlideProgress)) == 22
    assert sorted(names_of(outcomes, SlideDone)) == ["big", "small"]
    assert not names_of(outcomes, Failed)
    assert files_of(tmp_path / "out") == expected
    assert not list((tmp_path / "out" / RECORDS_NAME).rglob("*.parquet"))


DRIVER = """
import sys
from pathlib import Path
from tests.inference.cluster.cases import ray_outcomes, slide_job
out, address, *slides = sys.argv[1:]
for outcome in ray_outcomes([slide_job(Path(slide)) for slide in slides], Path(out), address=address):
    print(type(outcome).__name__, flush=True)
"""


def test_a_killed_driver_is_resumed_without_doing_regions_again(cluster, jobs, expected, tmp_path):
    out = tmp_path / "out"
    slides = [str(job.source.path) for job in jobs]
    command = [sys.executable, "-c", DRIVER, str(out), cluster.address, *slides]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as driver:
        done = 0
        for line in driver.stdout:
            done += line.startswith("SlideProgress")
            if done == 9:
                driver.kill()
                break
    assert done == 9
    assert "big.parquet" not in files_of(out)
    outcomes = list(ray_outcomes(jobs, out, resume=True))
    assert not names_of(outcomes, Failed)
    assert len(names_of(outcomes, SlideProgress)) <= 22 - 9
    assert files_of(out) == expected


def test_what_cannot_be_read_is_named_and_the_rest_is_done(cluster, jobs, expected, tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    big, small = (Path(job.source.path) for job in jobs)
    (folder / small.name).write_bytes(small.read_bytes())
    (folder / "torn.ome.tif").write_bytes(small.read_bytes()[:3000])
    (folder / "worn.ome.tif").write_bytes(big.read_bytes())
    damage_tile(folder / "worn.ome.tif", 0)
    monkeypatch.setattr(segment, "load_pipeline", lambda *_: painted_pipeline())
    arguments = ["--engine", "ray", "--workers", "2", "--cpus-per-worker", "1", "--tissue", "all"]
    monkeypatch.setattr("cfsam_hf.inference.slide_plan.REGION_SIDE", 300)
    assert terminal.main(["segment", str(folder), "-o", str(out), *arguments]) == terminal.EXIT_FAILED
    said, complained = capsys.readouterr()
    assert "small.ome.tif: 36 nuclei" in said
    assert "torn.ome.tif" in complained
    assert "worn.ome.tif: 1 of 1 regions failed in each of 3 tries: region 0000_0000 (x 0 to 1200" in complained
    assert "2 of 3 images could not be segmented" in complained
    summary = pd.read_csv(out / "summary.csv")
    assert summary["image"].unique().tolist() == ["small.ome.tif"]


def test_one_damaged_region_costs_no_other_region(cluster, jobs, expected, tmp_path):
    path = tmp_path / "worn.ome.tif"
    path.write_bytes(Path(jobs[0].source.path).read_bytes())
    damage_tile(path, 0)
    outcomes = list(ray_outcomes([slide_job(path), jobs[1]], tmp_path / "out"))
    [failed] = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert "worn.ome.tif: 1 of 20 regions failed in each of 3 tries: region 0000_0000" in str(failed.error)
    assert names_of(outcomes, SlideProgress).count("worn") == 19
    # The whole file again: a resumed run has only that region to do. Region files depend on the content of the slide.
    kept = list((tmp_path / "out" / RECORDS_NAME).rglob("*.parquet"))
    assert len(kept) == 19
    assert files_of(tmp_path / "out").keys() == {name for name in expected if not name.startswith("big")}


class FullMachine(NucleiSegmentationPipeline):
    """A pipeline whose every region fails on one machine, as on a full disk."""

    full = None

    def predict_runs(self, *arguments, **options):
        if ray.get_runtime_context().get_node_id() == self.full:
            raise OSError(errno.ENOSPC, "No space left on device", "/scratch")
        return super().predict_runs(*arguments, **options)


def test_a_machine_on_which_everything_fails_costs_nothing_but_itself(cluster, jobs, expected, tmp_path):
    pipe = painted_pipeline()
    pipe.__class__ = FullMachine
    pipe.full = next(
        node["NodeID"] for node in ray.nodes() if node["NodeID"] != ray.get_runtime_context().get_node_id()
    )
    outcomes = list(ray_outcomes(jobs, tmp_path / "out", pipe=pipe))
    assert not names_of(outcomes, Failed)
    assert files_of(tmp_path / "out") == expected
