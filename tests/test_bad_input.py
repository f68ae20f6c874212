"""Why: any file in a folder of images must give a correct result or one line that names it, and stop no other."""

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
import torch

from cfsam_hf.commands import segment
from cfsam_hf.commands import terminal as cli
from cfsam_hf.files.csv_files import safe_cell
from cfsam_hf.inference.record import RECORDS_NAME
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline

from .painted_model import PaintedModel, paint, painted_config
from .picture_cases import CASES, DEEP, GREY, NAN, PICTURE

SUFFIXES = ("_instances.tif", ".geojson", ".parquet")
OVERLAY = "_overlay.png"
NOBODY = 65534
SECONDS = 120
# TIFF files with several levels are slides.
PYRAMIDS = ("pyramid of pages", "pyramid below the page")


@pytest.fixture(scope="module")
def painted_pipeline():
    """The model that reads nuclei off painted images."""
    return NucleiSegmentationPipeline(model=PaintedModel(painted_config()))


@pytest.fixture
def painted(monkeypatch, painted_pipeline):
    """The command with that model."""
    monkeypatch.setattr(segment, "load_pipeline", lambda checkpoint, device: painted_pipeline)


@pytest.fixture(autouse=True)
def no_hanging():
    """A read that waits forever is a failure, not a hanging test."""

    def fail(*_):
        raise AssertionError(f"still waiting after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def open_folder():
    """An empty folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="cfsam-test-") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@contextmanager
def without_privileges():
    """As a user who may read and write only what permissions allow, which root may not be."""
    if os.geteuid() != 0:
        yield
        return
    # The package may lie in a folder that only root can list, so its commands are discovered before.
    parser = cli.build_parser()
    try:
        os.seteuid(NOBODY)
    except OSError as error:
        pytest.skip(f"root cannot drop its privileges here: {error}")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "build_parser", lambda: parser)
            yield
    finally:
        os.seteuid(0)


def save(path: Path, pixels=PICTURE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


def run(*arguments, overlay=False):
    options = ["--mpp", "0.25", "--overlay" if overlay else "--no-overlay"]
    return cli.main(["segment", *options, *map(str, arguments)])


def files(folder: Path) -> list[str]:
    """All files and folders below, hidden ones too, but for the records of what is done."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(path.as_posix() for path in paths if path.parts[0] != RECORDS_NAME)


def outputs(*stems: str) -> list[str]:
    return sorted(["summary.csv", *(stem + suffix for stem in stems for suffix in SUFFIXES)])


def nuclei(out: Path, stem: str):
    with open(out / f"{stem}.parquet", "rb") as file:  # pandas takes only names that are valid text
        return tifffile.imread(out / f"{stem}_instances.tif"), pd.read_parquet(file)


def assert_same_nuclei(out: Path, stem: str, other: str) -> None:
    (instance_map, table), (expected_map, expected_table) = nuclei(out, stem), nuclei(out, other)
    np.testing.assert_array_equal(instance_map, expected_map)
    pd.testing.assert_frame_equal(table, expected_table)


def assert_one_error(err: str, name: str, words: str, count: int) -> None:
    """One line for the image and one in the end, without a traceback."""
    first, last = err.splitlines()
    assert first.startswith("cfsam: error: ")
    assert name in first
    assert re.search(words, first), first
    assert last == f"cfsam: 1 of {count} images could not be segmented"


@pytest.mark.parametrize("name", [name for name in CASES if name not in PYRAMIDS])
def test_a_right_answer_or_one_line_and_the_rest_is_done(name, painted, tmp_path, capsys):
    case = CASES[name]
    folder, out = tmp_path / "in", tmp_path / "out"
    save(folder / "good.png")
    case.write(folder / f"case.{case.ending}")
    if isinstance(case.answer, str):
        assert run(folder, "-o", out) == cli.EXIT_FAILED
        assert_one_error(capsys.readouterr().err, f"case.{case.ending}", case.answer, 2)
        assert files(out) == outputs("good")
    else:
        save(folder / "plain.png", case.answer)
        assert run(folder, "-o", out) == cli.EXIT_OK
        # A warning says that types mean nothing in pictures without colour.
        assert [line for line in capsys.readouterr().err.splitlines() if "has no colour" not in line] == []
        assert files(out) == outputs("case", "good", "plain")
        assert_same_nuclei(out, "case", "plain")
    assert len(nuclei(out, "good")[1]) == 8
    summary = pd.read_csv(out / "summary.csv")
    others = set() if isinstance(case.answer, str) else {f"case.{case.ending}", "plain.png"}
    assert set(summary["image"]) == {"good.png"} | others


@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_pyramid_is_a_slide(name, painted, tmp_path, capsys):
    out = tmp_path / "out"
    CASES[name].write(tmp_path / "case.tif")
    assert run(tmp_path / "case.tif", "-o", out) == cli.EXIT_FAILED
    assert "no tissue was found on case.tif; pass --tissue all" in capsys.readouterr().err
    assert not (out / "case.parquet").exists()
    save(tmp_path / "plain.png", CASES[name].answer)
    assert run(tmp_path / "plain.png", "-o", out) == cli.EXIT_OK
    assert run(tmp_path / "case.tif", "-o", out, "--tissue", "all") == cli.EXIT_OK
    table = pd.read_parquet(out / "case.parquet")
    pd.testing.assert_frame_equal(table[["x", "y", "type"]], nuclei(out, "plain")[1][["x", "y", "type"]])


@pytest.mark.parametrize("name", ["1x1", "3x5,000", "5,000x3"])
def test_overlays_of_odd_forms(name, painted, tmp_path):
    CASES[name].write(tmp_path / "case.png")
    assert run(tmp_path / "case.png", "-o", tmp_path / "out", overlay=True) == cli.EXIT_OK
    assert files(tmp_path / "out") == sorted([*outputs("case"), f"case{OVERLAY}"])
    PIL.Image.open(tmp_path / "out" / f"case{OVERLAY}").load()


@pytest.mark.parametrize("name", ["1x1", "all white", "all black"])
def test_the_bundled_checkpoint_finds_nothing_where_nothing_is(name, tmp_path, capsys):
    CASES[name].write(tmp_path / "case.png")
    assert run(tmp_path / "case.png", "-o", tmp_path / "out", "--device", "cpu", overlay=True) == cli.EXIT_OK
    assert files(tmp_path / "out") == sorted([*outputs("case"), f"case{OVERLAY}"])
    assert [line for line in capsys.readouterr().err.splitlines() if "has no colour" not in line] == []
    instance_map, table = nuclei(tmp_path / "out", "case")
    assert instance_map.shape == CASES[name].answer.shape[:2]
    assert len(table) == 0


def test_a_page_is_chosen_by_its_option(painted, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([255 - PICTURE, PICTURE]), photometric="rgb")
    save(tmp_path / "plain.png")
    assert run(tmp_path / "stack.tif", "--page", 2, "-o", tmp_path / "out") == 0
    assert run(tmp_path / "plain.png", "-o", tmp_path / "out") == 0
    assert_same_nuclei(tmp_path / "out", "stack", "plain")
    assert capsys.readouterr().err == ""
    assert run(tmp_path / "stack.tif", tmp_path / "plain.png", "--page", 2, "-o", tmp_path / "more") == 1
    assert_one_error(capsys.readouterr().err, "plain.png", "no --page 2: it has 1 page", 2)
    assert files(tmp_path / "more") == outputs("stack")


def test_the_limit_of_pixels_is_an_option(painted, tmp_path, capsys):
    save(tmp_path / "in" / "large.png", paint(70, 100, count=3)[0])
    save(tmp_path / "in" / "small.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--max-pixels", 64 * 80) == 1
    assert_one_error(capsys.readouterr().err, "large.png", "7000 pixels.* --max-pixels 5120; raise it", 2)
    assert files(tmp_path / "out") == outputs("small")
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--max-pixels", 7000) == 0


def test_a_folder_named_as_an_image_is_a_folder(painted, tmp_path, capsys):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "x.png" / "b.png")
    (tmp_path / "in" / "empty.png").mkdir()
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert files(tmp_path / "out") == sorted([*outputs("a", "x.png/b"), "x.png"])
    assert run(tmp_path / "in" / "empty.png", tmp_path / "in" / "a.png", "-o", tmp_path / "one") == 1
    assert "empty.png: no images in this folder" in capsys.readouterr().err
    assert files(tmp_path / "one") == outputs("a")


def test_what_may_not_be_read_is_told(painted, open_folder, capsys):
    save(open_folder / "in" / "a.png")
    save(open_folder / "in" / "closed.png").chmod(0)
    save(open_folder / "in" / "closed" / "b.png")
    (open_folder / "in" / "closed").chmod(0)
    with without_privileges():
        status = run(open_folder / "in", "-o", open_folder / "out")
    assert status == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("closed: Permission denied")
    assert lines[1].endswith("closed.png: Permission denied")
    assert lines[2] == "cfsam: 2 of 3 images could not be segmented"
    assert files(open_folder / "out") == outputs("a")


NAMES = {
    "spaces": "a tile (2).png",
    "brackets": "tile[1]*.png",
    "non-ASCII": "größe 細胞核 é.png",
    "newline": "new\nline.png",
    "leading dash": "-o.png",
    "no text": os.fsdecode(b"caf\xe9.png"),
    "quotes": "'\"`$(x);&.png",
}


@pytest.mark.parametrize("kind", NAMES)
def test_any_file_name(kind, painted, tmp_path, capsys, monkeypatch):
    name = NAMES[kind]
    stem = name.removesuffix(".png")
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    try:
        PIL.Image.fromarray(PICTURE).save(Path("in") / name)
    except OSError:
        pytest.skip("the file system does not take such a name")
    assert run("in", "-o", "out") == 0
    assert run("-o", "alone", "--", name) == 1  # told from an option, and not there
    os.chdir("in")
    assert run("-o", "../alone", "--", name) == 0
    os.chdir("..")
    for out in (Path("out"), Path("alone")):
        assert files(out) == outputs(stem)
        assert len(nuclei(out, stem)[1]) == 8
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        assert pd.read_csv(out / "summary.csv")["image"].iloc[0] == safe_cell(shown)
        assert f'"image": {pd.io.json.ujson_dumps(shown, ensure_ascii=False)}' in (out / f"{stem}.geojson").read_text()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search("no such file|no image matches", lines[0])


def test_a_name_too_long_for_its_results_is_told(painted, tmp_path, capsys):
    save(tmp_path / "in" / f"{'n' * 245}.png")
    save(tmp_path / "in" / "a.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert_one_error(capsys.readouterr().err, "nnn", "File name too long", 2)
    assert files(tmp_path / "out") == outputs("a")


def test_two_images_for_the_same_results(painted, tmp_path, capsys):
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "a.png", 255 - PICTURE)
    save(tmp_path / "y" / "b.png")
    assert run(tmp_path / "x", tmp_path / "y", "-o", tmp_path / "out") == 1
    words = re.escape(f"{tmp_path / 'y' / 'a.png'}: would write the same files as {tmp_path / 'x' / 'a.png'}; give")
    assert_one_error(capsys.readouterr().err, "a.png", words, 3)
    assert files(tmp_path / "out") == outputs("a", "b")
    assert_same_nuclei(tmp_path / "out", "a", "b")
    assert run(tmp_path, "-o", tmp_path / "both") == 0
    assert {"x/a.geojson", "y/a.geojson"} < set(files(tmp_path / "both"))


def test_outputs_that_cannot_be_written_are_told_before_the_work(painted, open_folder, capsys):
    image = save(open_folder / "a.png")
    closed = open_folder / "closed"
    closed.mkdir(mode=0o555)
    with without_privileges():
        assert run(image, "-o", closed) == 1
        assert run(image, "-o", closed / "deeper") == 1
    assert run(image, "-o", image) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("choose another folder with -o" in line for line in lines[:2])
    assert "a.png: is a file" in lines[2]
    assert files(open_folder) == ["a.png", "closed"]


def test_a_folder_in_the_place_of_a_result(painted, tmp_path, capsys):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    (tmp_path / "out" / "a_nuclei.csv").mkdir(parents=True)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--also", "csv") == 1
    assert_one_error(capsys.readouterr().err, "a_nuclei.csv", "is a folder where a file is to be written", 2)
    assert files(tmp_path / "out") == sorted(["a_nuclei.csv", *outputs("b"), "b_nuclei.csv"])


@pytest.fixture
def images_of_two_sizes(tmp_path):
    """Three images, the results of the second of which take far more room; and the first's results, by themselves."""
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png", paint(500, 500, count=150, seed=1)[0])
    save(tmp_path / "in" / "c.png")
    return tmp_path / "in"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 192 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "none", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be mounted by root; the limit on file sizes is tested in its place")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def limited_file_size(size: int):
    """Writing beyond `size` bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_second_failed(out: Path, err: str, words: str) -> None:
    assert_one_error(err, "b", words, 3)
    assert files(out) == sorted([*outputs("a", "c"), f"a{OVERLAY}", f"c{OVERLAY}"])
    assert_same_nuclei(out, "a", "c")
    for stem in ("a", "c"):
        PIL.Image.open(out / f"{stem}{OVERLAY}").load()


def test_a_full_disk(painted, images_of_two_sizes, small_disk, capsys):
    assert run(images_of_two_sizes, "-o", small_disk, overlay=True) == 1
    assert_second_failed(small_disk, capsys.readouterr().err, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(192 * 1024))
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    assert run(images_of_two_sizes / "a.png", "-o", small_disk) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before


def test_a_file_that_cannot_grow(painted, images_of_two_sizes, tmp_path, capsys):
    with limited_file_size(60_000):
        status = run(images_of_two_sizes, "-o", tmp_path / "out", overlay=True)
    assert status == 1
    assert_second_failed(tmp_path / "out", capsys.readouterr().err, "File too large")


PLAIN = {
    "channel first": PICTURE.transpose(2, 0, 1),
    "tensor": torch.from_numpy(PICTURE.transpose(2, 0, 1).copy()),
    "float": (PICTURE / 255).astype(np.float32),
    "16 bits": DEEP,
    "backwards in memory": np.ascontiguousarray(PICTURE[::-1])[::-1],
    "big-endian": DEEP.astype(">u2"),
    "read-only": np.frombuffer(PICTURE.tobytes(), np.uint8).reshape(PICTURE.shape),
    "PIL": PIL.Image.fromarray(PICTURE),
}
IMPOSSIBLE = {
    "no pixels": (PICTURE[:0], ValueError, "no pixels"),
    "NaN": (NAN, ValueError, "NaN or infinite values; replace them"),
    "normalised": (PICTURE / 60 - 2, ValueError, "undo its normalisation"),
    "two channels": (PICTURE[:, :, :2], ValueError, "1, 3 or 4 channels"),
    "a batch of batches": (PICTURE[None, None], ValueError, "as a list"),
    "one row": (GREY[0], ValueError, r"\(80,\)"),
    "complex": (GREY.astype(complex), TypeError, "complex128"),
    "objects": (GREY.astype(object), TypeError, "object"),
    "text": (np.array([["a"]]), TypeError, "use uint8"),
    "nothing": (None, TypeError, "NoneType"),
    "bytes": (b"\x89PNG", OSError, "the 4 bytes given as an image: not an image"),
    "a number in a list": ([PICTURE, 3], TypeError, "int"),
    "no file": ("nowhere.png", FileNotFoundError, "nowhere.png"),
    "an empty path": ("", FileNotFoundError, "''"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_arrays_of_every_kind_through_the_pipeline(name, painted_pipeline):
    expected, found = (painted_pipeline(image, mpp=0.25) for image in (PICTURE, PLAIN[name]))
    np.testing.assert_array_equal(found.instance_map, expected.instance_map)
    pd.testing.assert_frame_equal(found.table, expected.table)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_images_through_the_pipeline(name, painted_pipeline):
    image, error, words = IMPOSSIBLE[name]
    with pytest.raises(error, match=words):
        painted_pipeline(image, mpp=0.25)
    assert len(painted_pipeline(PICTURE, mpp=0.25)) == 8, "the pipeline continues after an error"


def test_pages_through_the_pipeline(painted_pipeline, tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([255 - PICTURE, PICTURE]), photometric="rgb")
    assert len(painted_pipeline(tmp_path / "stack.tif", mpp=0.25, page=2)) == 8
    with pytest.raises(OSError, match=r"stack\.tif.* page=N, N from 1 to 2"):
        painted_pipeline(tmp_path / "stack.tif", mpp=0.25)
    with pytest.raises(ValueError, match="page=2 chooses"):
        painted_pipeline(PICTURE, mpp=0.25, page=2)
