"""Why: the data set of a study must be what its slides' tables are, for the readers that people use."""

from pathlib import PurePath

import duckdb
import pandas as pd
import pytest

from cfsam_hf.inference import RunRecord
from cfsam_hf.inference.cluster.cohort_files import write_cohort
from cfsam_hf.inference.slide_sink import SlideSink

from .cases import EVERYWHERE, SIDE, painted_pipeline, run_slides, slide_job, write_slides


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """An output folder with two slides, one below a folder, after a partition of a slide that is gone."""
    folder = tmp_path_factory.mktemp("in")
    jobs = write_slides(folder, big=(1, 1))
    source = jobs[0].source
    jobs[0] = type(jobs[0])(type(source)(source.path, "case 7/big.tif"), PurePath("case 7/big"))
    out = tmp_path_factory.mktemp("study")
    (out / "nuclei" / "slide=gone").mkdir(parents=True)
    (out / "nuclei" / "slide=gone" / "nuclei.parquet").write_bytes(b"")
    with RunRecord(out) as record:
        list(run_slides(jobs, painted_pipeline(), SlideSink(out, ["table"]), record, where=EVERYWHERE, side=SIDE))
    write_cohort(SlideSink(out).place, record.entries, {"torn.tif": "torn.tif is damaged"}, "study")
    return out


def test_duckdb_reads_the_nuclei_of_all_slides(study):
    counts = duckdb.sql(
        f"select slide, count(*) n, sum(area_um2) a from read_parquet('{study}/nuclei/*/*.parquet', "
        "hive_partitioning = true) group by slide"
    ).df()
    table = pd.read_csv(study / "cohort.csv").set_index("slide")
    assert dict(zip(counts["slide"], counts["n"], strict=True)) == table["count"].dropna().astype(int).to_dict()
    assert set(counts["slide"]) == {"case 7/big.tif", "small.ome.tif"}
    assert table.loc["torn.tif", "error"] == "torn.tif is damaged"


def test_datasets_reads_them(study):
    datasets = pytest.importorskip("datasets")
    files = str(study / "nuclei" / "*" / "*.parquet")
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(study.parent / "cache"))
    assert len(found) == pd.read_csv(study / "cohort.csv")["count"].sum()
    assert found[0]["type_name"] in ("inflammatory", "epithelial")


def test_the_data_set_needs_no_further_space(study):
    [part] = (study / "nuclei").glob("slide=small*/nuclei.parquet")
    assert part.samefile(study / "small.parquet")


def test_a_second_writing_follows_what_is_there(study, tmp_path):
    job = slide_job(study / "none")
    record = RunRecord(study)
    record.finish()
    assert [entry.target for entry in record.entries] == ["case 7/big", "small"]
    write_cohort(SlideSink(study).place, record.entries, {job.source.name: "no such file"}, "study")
    names = {path.name for path in (study / "nuclei").iterdir()}
    assert names == {"slide=case%207%2Fbig.tif", "slide=small.ome.tif"}
