"""Why: a run into a folder that holds files must replace its own results, and never a file of somebody else."""

import pandas as pd
import pytest
import tifffile

from cfsam_hf.commands import segment
from cfsam_hf.inference import record, sink
from cfsam_hf.inference.record import MERGED_NAME, RECORDS_NAME

from ..segment_cases import ALL_KINDS, names, run, threshold_pipeline, write_image

pytestmark = pytest.mark.usefixtures("calls")


def test_a_second_run_replaces_the_first(tmp_path):
    image = write_image(tmp_path / "a.png")
    assert run(image, "-o", tmp_path / "out") == 0
    write_image(tmp_path / "a.png", 50, 60)
    assert run(image, "-o", tmp_path / "out") == 0
    assert tifffile.imread(tmp_path / "out" / "a_instances.tif").shape == (50, 60)
    assert len(names(tmp_path / "out")) == 5


@pytest.mark.parametrize("ending", [kind.ending for kind in sink.OUTPUT_KINDS.values()])
def test_files_of_others_are_not_replaced(ending, tmp_path, capsys):
    write_image(tmp_path / "a.png")
    other = tmp_path / f"a{ending}"
    other.write_text("drawn by hand")
    assert run(tmp_path / "a.png", "-o", tmp_path, *ALL_KINDS) == 1
    assert f"a{ending} exists and was not written by cfsam" in capsys.readouterr().err
    assert other.read_text() == "drawn by hand"
    assert names(tmp_path) == sorted(["a.png", other.name])


def test_a_table_with_columns_of_its_own_is_not_replaced(tmp_path, capsys):
    image = write_image(tmp_path / "a.png")
    assert run(image, "-o", tmp_path / "out", *ALL_KINDS) == 0
    table = tmp_path / "out" / "a_nuclei.csv"
    edited = pd.read_csv(table).assign(grade=3)
    edited.to_csv(table, index=False)
    assert run(image, "-o", tmp_path / "out", *ALL_KINDS) == 1
    assert "a_nuclei.csv exists and was not written by cfsam" in capsys.readouterr().err
    assert run(image, "-o", tmp_path / "out") == 0
    pd.testing.assert_frame_equal(pd.read_csv(table), edited)


def test_files_that_are_not_written_this_time_are_nobodys_concern(tmp_path):
    image = write_image(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    for ending in ("_overlay.png", "_nuclei.csv", "_coco.json"):
        (tmp_path / "out" / f"a{ending}").write_text("mine")
    assert run(image, "-o", tmp_path / "out", "--no-overlay") == 0
    assert (tmp_path / "out" / "a_nuclei.csv").read_text() == "mine"
    assert (tmp_path / "out" / "a_overlay.png").read_text() == "mine"


def test_other_options_leave_nothing_of_the_run_before(tmp_path):
    image, out = write_image(tmp_path / "a.png"), tmp_path / "out"
    assert run(image, "-o", out, *ALL_KINDS) == 0
    assert len(names(out)) == 8
    assert run(image, "-o", out, "--no-overlay") == 0
    assert names(out) == sorted(["summary.csv", "a_instances.tif", "a.geojson", "a.parquet"])


def test_an_image_whose_results_get_another_name_keeps_no_old_ones(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_image(folder / "a.png")
    assert run(folder, "-o", out, *ALL_KINDS) == 0
    write_image(folder / "a.tif")
    assert run(folder, "-o", out, "--no-overlay") == 0
    endings = ["_instances.tif", ".geojson", ".parquet"]
    assert names(out) == sorted(["summary.csv", *(f"{name}{end}" for name in ("a.png", "a.tif") for end in endings)])
    assert pd.read_csv(out / "summary.csv")["image"].value_counts().to_dict() == {"a.png": 4, "a.tif": 4}


def test_own_files_are_replaced_in_every_format(tmp_path):
    write_image(tmp_path / "a.png", 300, 300)
    for _ in range(2):
        assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--also", "coco", "--also", "csv") == 0
    assert len(names(tmp_path / "out")) == 7


def test_outputs_beside_the_images_are_not_done_again(tmp_path):
    write_image(tmp_path / "a.png")
    assert run(tmp_path, "-o", tmp_path) == 0
    before = names(tmp_path)
    assert run(tmp_path, "-o", tmp_path) == 0
    assert names(tmp_path) == before


def test_results_are_never_images_in_any_folder_under_any_name(tmp_path, capsys):
    folder = tmp_path / "tiles"
    write_image(folder / "a.png")
    assert run(folder, "-o", folder / "run1") == 0
    (folder / "run1" / "a_overlay.png").rename(folder / "picture.png")
    (folder / "run1" / "a_instances.tif").rename(folder / "run1" / "b.tif")
    everything = [str(path) for path in folder.rglob("*.[pt][ni][gf]")]
    assert len(everything) == 3
    capsys.readouterr()
    for inputs in ([folder], everything, [folder / "**" / "*.*"]):
        out = tmp_path / f"run{len(inputs)}{len(str(inputs[0]))}"
        assert run(*inputs, "-o", out) == 0
        assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["a.png"]
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("cfsam: note: left out 2 files that cfsam wrote as results: ")
        assert "picture.png" in line


def test_the_summary_covers_earlier_runs_into_the_same_folder(tmp_path, capsys):
    out = tmp_path / "out"
    for name in ("a", "b"):
        assert run(write_image(tmp_path / f"{name}.png"), "-o", out) == 0
    assert "summary of 2 images (1 from other runs)" in capsys.readouterr().out
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["a.png", "b.png"]
    # An image whose results were removed is no longer in it.
    (out / "a.geojson").unlink()
    assert run(tmp_path / "b.png", "-o", out) == 0
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["b.png"]


def test_a_summary_of_others_is_not_replaced(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.csv").write_text("case,grade\n1,3\n")
    assert run(write_image(tmp_path / "a.png"), "-o", out) == 1
    assert "summary.csv exists and was not written by cfsam" in capsys.readouterr().err
    assert names(out) == ["summary.csv"]


@pytest.mark.parametrize(
    "content", [b"", bytes(4096), b"\n", b"image,type,type_na", b"image,typ\0\0\0", b"\xef\xbb\xbfimage,type"]
)
def test_a_summary_that_a_power_failure_has_left_is_replaced(content, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.csv").write_bytes(content)
    assert run(write_image(tmp_path / "a.png"), "-o", out) == 0
    assert len(pd.read_csv(out / "summary.csv")) == 4


@pytest.mark.parametrize("ending", [kind.ending for kind in sink.OUTPUT_KINDS.values()])
def test_results_that_a_power_failure_has_left_are_replaced(ending, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for content in (b"", bytes(4096)):
        (out / f"a{ending}").write_bytes(content)
        assert run(write_image(tmp_path / "a.png"), "-o", out, *ALL_KINDS) == 0
        assert (out / f"a{ending}").stat().st_size > 0


def test_runs_at_the_same_time_share_one_summary(tmp_path, monkeypatch):
    """Each run begins before the other has ended, and the one that began first ends last."""
    out, others, waiting = tmp_path / "out", [], ["c", "b"]
    for name in "abc":
        write_image(tmp_path / f"{name}.png")

    def pipe(image, **options):
        if waiting:
            others.append(run(tmp_path / f"{waiting.pop()}.png", "-o", out))
        return threshold_pipeline(image, **options)

    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    assert run(tmp_path / "a.png", "-o", out) == 0
    assert others == [0, 0]
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["a.png", "b.png", "c.png"]
    assert sorted(path.name for path in (out / RECORDS_NAME).iterdir()) == sorted([MERGED_NAME, record.LOCK_NAME])
