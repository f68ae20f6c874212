"""Why: a cluster must give the plain loop's files, bit for bit, and refuse a folder that another run writes to."""

import pytest

from cfsam_hf.files.disk import locked
from cfsam_hf.inference.record import RECORDS_NAME
from cfsam_hf.inference.run import Current
from cfsam_hf.inference.slide_run import SlideDone, SlideProgress
from cfsam_hf.inference.slide_sink import CLUSTER_LOCK

from ..slide_cases import painted_slide
from .cases import files_of, ray_outcomes, run_plain


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path):
    job, _ = painted_slide(tmp_path, height=100, width=100, count=3)
    records = tmp_path / "out" / RECORDS_NAME
    records.mkdir(parents=True)
    with (
        locked(records / CLUSTER_LOCK, wait=False),
        pytest.raises(OSError, match="out: another run on a cluster writes into this folder"),
    ):
        list(ray_outcomes([job], tmp_path / "out"))


def test_a_local_ray_gives_the_files_of_the_plain_loop(tmp_path):
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    job, _ = painted_slide(tmp_path)
    run_plain([job], tmp_path / "plain")
    outcomes = list(ray_outcomes([job], tmp_path / "ray", workers=1))
    assert [type(outcome) for outcome in outcomes] == [SlideProgress] * 6 + [SlideDone]
    assert outcomes[5].mm2 == pytest.approx(outcomes[5].total_mm2)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "plain")
    assert not list((tmp_path / "ray" / RECORDS_NAME).rglob("*.parquet"))
    # A run with nothing to do starts no cluster.
    [outcome] = ray_outcomes([job], tmp_path / "ray", resume=True, address="nowhere:1")
    assert isinstance(outcome, Current)
