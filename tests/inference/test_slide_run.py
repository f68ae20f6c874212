"""Slides must give the nuclei of one piece, once each, whatever was killed, and files that are whole or absent."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import pyarrow.parquet
import pytest

from cfsam_hf.inference import RunRecord
from cfsam_hf.inference.region_jobs import run_region
from cfsam_hf.inference.region_store import RegionStore
from cfsam_hf.inference.run import Current, Failed
from cfsam_hf.inference.slide_plan import WhereToLook, plan_slide
from cfsam_hf.inference.slide_run import SlideDone, SlideProgress, run_slides
from cfsam_hf.inference.slide_sink import SlideSink
from cfsam_hf.inference.slide_steps import merged

from .slide_cases import SIDE, painted_pipeline, painted_slide

EVERYWHERE = WhereToLook(tissue="all")


@pytest.fixture(scope="module")
def pipe():
    return painted_pipeline()


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return painted_slide(tmp_path_factory.mktemp("slide"))


def run(job, pipe, folder, **options):
    folder.mkdir(exist_ok=True)
    with RunRecord(folder) as record:
        arguments = {"where": EVERYWHERE, "side": SIDE, **options}
        return list(run_slides([job], pipe, SlideSink(folder, ["table"]), record, **arguments))


def table_of(folder):
    return pyarrow.parquet.read_table(folder / "painted.parquet").drop(["bbox"])


@pytest.fixture(scope="module")
def finished(slide, pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    return folder, run(slide[0], pipe, folder)


def test_regions_give_the_nuclei_of_one_piece(slide, pipe, finished):
    folder, outcomes = finished
    whole = pipe(slide[1], mpp=0.25)
    ours = table_of(folder).to_pandas()
    theirs = whole.table
    assert len(ours) == len(theirs) > 100
    assert ours["id"].tolist() == list(range(1, len(ours) + 1))
    ours, theirs = (t.sort_values(["y", "x"]).reset_index(drop=True) for t in (ours, theirs))
    for name in ("x", "y", "area_px", "area_um2", "bbox_x0", "bbox_y1", "score", "type_probability"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12, err_msg=name)
    assert ours["type_name"].tolist() == theirs["type_name"].tolist()
    assert isinstance(outcomes[-1], SlideDone)
    assert outcomes[-1].record["nuclei"] == len(theirs)
    assert outcomes[-1].rows[0]["count"] == len(theirs)


def test_progress_adds_up_to_all_of_the_tissue(finished):
    progress = [outcome for outcome in finished[1] if isinstance(outcome, SlideProgress)]
    assert [p.regions for p in progress] == list(range(1, 7))
    assert progress[-1].mm2 == pytest.approx(progress[-1].total_mm2)
    assert progress[-1].seconds_left == pytest.approx(0)
    assert progress[-1].total_mm2 == pytest.approx(900 * 700 * 0.25**2 / 1e6, rel=0.1)


def test_finished_slides_leave_no_region_files_and_are_skipped_when_resumed(slide, pipe, finished):
    folder, _ = finished
    assert sorted(path.name for path in folder.iterdir()) == [".cfsam", "painted.parquet", "summary.csv"]
    assert not list((folder / ".cfsam").rglob("*.parquet"))
    [outcome] = run(slide[0], pipe, folder, resume=True)
    assert isinstance(outcome, Current)


def test_a_stopped_run_is_resumed_without_doing_regions_again(slide, pipe, finished, tmp_path):
    folder = tmp_path / "stopped"
    folder.mkdir()
    with RunRecord(folder) as record:
        outcomes = run_slides([slide[0]], pipe, SlideSink(folder, ["table"]), record, where=EVERYWHERE, side=SIDE)
        for _ in range(3):
            next(outcomes)
        outcomes.close()
    done = {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert 3 <= len(done) < 6
    assert not (folder / "painted.parquet").exists()
    before = shutil.copytree(folder, tmp_path / "copy")
    pipe.model.tiles.clear()
    resumed = run(slide[0], pipe, folder, resume=True)
    progress = [outcome for outcome in resumed if isinstance(outcome, SlideProgress)]
    assert len(progress) == 6 - len(done)
    assert progress[-1].regions == 6
    assert (folder / "painted.parquet").read_bytes() == (finished[0] / "painted.parquet").read_bytes()
    # Without --resume, or with other options, nothing is taken over.
    assert len(run(slide[0], pipe, before, resume=True, options={"views": 2})) == 7


def test_regions_can_be_done_elsewhere_in_any_order(slide, pipe, finished, tmp_path):
    source = slide[0].source
    with source.open() as opened:
        plan = plan_slide(source, opened, pipe, {}, EVERYWHERE, SIDE)
    plan = pickle.loads(pickle.dumps(plan))
    store = RegionStore(tmp_path, slide[0].target, {})
    regions = pickle.loads(pickle.dumps(plan.regions()))
    with store.held(resume=False):
        for region in reversed(regions):
            run_region(plan, region, pipe, store)
        batches = list(merged(plan, regions, store, {}).batches())
    assert pyarrow.Table.from_batches(batches).equals(table_of(finished[0]))


def test_a_bad_slide_does_not_stop_the_others_and_names_itself(slide, pipe, tmp_path):
    bad = tmp_path / "bad.ome.tif"
    data = bytearray(Path(slide[0].source.path).read_bytes())
    bad.write_bytes(data[: len(data) // 3])
    job = replace(slide[0], source=replace(slide[0].source, path=bad, name="bad.ome.tif"), target=PurePath("bad"))
    out = tmp_path / "out"
    out.mkdir()
    with RunRecord(out) as record:
        outcomes = list(
            run_slides([job, slide[0]], pipe, SlideSink(out, ["table"]), record, where=EVERYWHERE, side=SIDE)
        )
    assert isinstance(outcomes[0], Failed)
    assert "bad.ome.tif" in str(outcomes[0].error)
    assert isinstance(outcomes[-1], SlideDone)
    assert not list(out.glob("bad*"))


def test_two_runs_of_one_slide_do_not_mix(slide, pipe, tmp_path):
    (tmp_path / "out").mkdir()
    store = RegionStore(tmp_path / "out", slide[0].target, {})
    with store.held(resume=False):
        [outcome] = run(slide[0], pipe, tmp_path / "out")
    assert "another run" in str(outcome.error)


def test_only_wanted_areas_are_worked_on(slide, pipe, finished, tmp_path):
    wanted, unwanted = tmp_path / "wanted.geojson", tmp_path / "unwanted.geojson"
    for path, (x0, y0, x1, y1) in ((wanted, (50, 60, 320, 500)), (unwanted, (200, 60, 320, 200))):
        ring = f"[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]"
        path.write_text(
            f'{{"type":"Feature","geometry":{{"type":"Polygon","coordinates":[{ring}]}},"properties":{{}}}}'
        )
    pipe.model.tiles.clear()
    run(slide[0], pipe, tmp_path / "out", where=WhereToLook(roi=wanted, exclude=unwanted))
    source = slide[0].source
    with source.open() as opened:
        regions = plan_slide(source, opened, pipe, {}, EVERYWHERE, SIDE).regions()
    assert len(pipe.model.tiles) < sum(len(region.windows) for region in regions) / 2
    all_nuclei = table_of(finished[0]).to_pandas()
    x, y = all_nuclei["x"], all_nuclei["y"]
    expected = all_nuclei[x.between(50, 320) & y.between(60, 500) & ~(x.between(200, 320) & y.between(60, 200))]
    ours = table_of(tmp_path / "out").to_pandas()
    assert sorted(zip(ours["x"], ours["y"], strict=True)) == sorted(zip(expected["x"], expected["y"], strict=True))
