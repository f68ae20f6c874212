"""Why: the command must write one valid results file for any system, and report a mismatch in one line."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cfsam_hf import NucleiSegmentationPipeline
from cfsam_hf.baselines.unet import UNetConfig, UNetForNucleiSegmentation
from cfsam_hf.commands import evaluate
from cfsam_hf.commands import terminal as cli
from cfsam_hf.evaluation.pannuke_protocol import average_folds
from cfsam_hf.model import precision

from .. import REPOSITORY
from ..evaluation_cases import NAMES, data_item, write_pannuke, write_tiles
from ..painted_model import PaintedModel, painted_config
from ..tiny import tiny_test_model

SCRIPT = REPOSITORY / "examples" / "evaluate.py"


@pytest.fixture
def tiles(tmp_path):
    return write_tiles(tmp_path / "tiles")


@pytest.fixture
def painted(monkeypatch):
    """The command with the model that reads nuclei off painted images."""
    pipe = NucleiSegmentationPipeline(model=PaintedModel(painted_config()))
    monkeypatch.setattr(evaluate, "load_pipeline", lambda checkpoint, device: pipe)


def run(*arguments):
    return cli.main(["evaluate", *map(str, arguments)])


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_checkpoint(painted, tiles, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert run("--data", data_item(tiles), "-o", out, "--resamples", "100", "--device", "cpu") == 0
    record = results(out)
    assert record["system"]["name"] == "painted"
    assert record["system"]["decoding"]["nuclei_threshold"] > 0
    assert record["environment"]["hardware"]
    assert {"cfsam_hf", "commit", "torch", "processes"} <= record["environment"].keys()
    result = record["results"]["painted"]
    assert result["tiles"] == ["tile1", "tile2", "tile3"]
    assert result["split"].endswith("split.json")
    assert result["types"] == ["inflammatory", "epithelial"]
    assert result["scores"]["pq_mean_over_images"] > 0.9
    assert result["scores"]["type_f1_pooled/epithelial"] == 1
    assert result["intervals"]["pq_mean_over_images"][0] <= result["scores"]["pq_mean_over_images"]
    assert list(result["tissues"]) == ["Breast", "Colon"]
    assert result["tissues"]["Breast"]["scores"]["images"] == 2
    # All files tell the same.
    table = pd.read_csv(out / "images.csv")
    same = pd.read_parquet(out / "images.parquet").astype({"fold": float})
    pd.testing.assert_frame_equal(table, same, check_dtype=False)
    assert table["pq"].mean() == pytest.approx(result["scores"]["pq_mean_over_images"])
    printed = capsys.readouterr().out
    assert (out / "results.md").read_text() in printed
    assert f"{result['scores']['pq_mean_over_images']:.3f}" in printed
    assert Image.open(out / "painted_tiles.png").width > 1000


def test_nuclei_without_type_are_told_of(painted, tiles, tmp_path, capsys):
    ids, path = np.array(Image.open(tiles / "tile2_instances.png")), tiles / "tile2_types.png"
    types = np.array(Image.open(path))
    types[ids == 4] = 0
    Image.fromarray(types).save(path)
    assert run("--data", data_item(tiles), "-o", tmp_path, "--resamples", "10", "--device", "cpu", "--no-pages") == 0
    scores = results(tmp_path)["results"]["painted"]["scores"]
    assert (scores["true_nuclei_without_type"], scores["type_f1_pooled/epithelial"]) == (1, 1)
    captured = capsys.readouterr()
    assert f"painted: true nuclei without a known type: 1 of {scores['true_nuclei']}. Scores of types" in captured.out
    assert captured.err == ""
    # Where no nucleus has a type there are no scores of types.
    for path in tiles.glob("*_types.png"):
        Image.fromarray(np.zeros_like(types)).save(path)
    assert run("--data", data_item(tiles), "-o", tmp_path, "--resamples", "10", "--device", "cpu", "--no-pages") == 0
    reason = "no true nucleus has a known type"
    assert results(tmp_path)["results"]["painted"]["types_not_compared"] == reason
    captured = capsys.readouterr()
    assert f"Types of painted are not compared: {reason}." in captured.out
    assert captured.err.splitlines() == [f"cfsam: painted: types are not compared and have no scores: {reason}"]
    Image.fromarray(types).save(tiles / "tile2_types.png")
    for name in ("tile0", "tile1", "tile3"):
        labels = np.array(Image.open(tiles / f"{name}_instances.png"))
        Image.fromarray((labels > 0).astype(np.uint8)).save(tiles / f"{name}_types.png")
    # The check of the data tells of it before, and finds nothing wrong.
    names = json.dumps({str(i): name for i, name in NAMES.items()})
    assert cli.main(["data", "check", "instance_pairs", str(tiles), "--option", f"type_names={names}"]) == 0
    assert f"note: instance_pairs {tiles}: 1 nucleus without a type, in tile tile2;" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_told_before_the_work(tiles, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "cfsam_hf.data.data_items.records_by_dataset", lambda *arguments: pytest.fail("work was begun")
    )
    (tmp_path / "file").write_text("mine")

    def refuse(**options):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Even a closed folder is open to root: the refusal itself is put in its place.
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for place, words in (
        (tmp_path / "file", "is a file, where a folder is needed"),
        (tmp_path / "file" / "x", "cannot write here"),
        (tmp_path / "closed", "cannot write here (Permission denied)"),
    ):
        assert run("--data", data_item(tiles), "-o", place, "--baseline", "classical") == 1
        captured = capsys.readouterr()
        [line] = captured.err.splitlines()
        assert f"{place}: {words}" in line
        assert line.endswith("choose another folder with -o")
        assert captured.out == ""
    assert (tmp_path / "file").read_text() == "mine"


def test_label_maps_that_the_command_segment_wrote_score_the_same(painted, tiles, tmp_path, monkeypatch):
    from cfsam_hf.commands import segment

    monkeypatch.setattr(segment, "load_pipeline", evaluate.load_pipeline)
    images = tmp_path / "images"
    images.mkdir()
    for path in tiles.glob("tile?.png"):
        (images / path.name).write_bytes(path.read_bytes())
    assert cli.main(["segment", str(images), "-o", str(tmp_path / "maps"), "--mpp", "0.25", "--no-overlay"]) == 0
    assert run("--data", data_item(tiles), "-o", tmp_path / "a", "--no-pages", "--device", "cpu") == 0
    assert run("--data", data_item(tiles), "-o", tmp_path / "b", "--no-pages", "--predictions", tmp_path / "maps") == 0
    assert not list((tmp_path / "b").glob("*.png"))
    one, other = results(tmp_path / "a"), results(tmp_path / "b")
    assert one["results"]["painted"]["scores"] == other["results"]["painted"]["scores"]
    assert other["results"]["painted"]["seconds_finding_nuclei"] is None


def test_parts_names_and_the_classical_baseline(tiles, tmp_path, capsys):
    options = ("--baseline", "classical", "--no-pages", "--resamples", "10")
    assert run("--data", data_item(tiles, "name=mine"), "-o", tmp_path / "all", "--part", "all", *options) == 0
    assert (
        run("--data", data_item(tiles), "-o", tmp_path / "train", "--part", "train", "--name", "Otsu", *options) == 0
    )
    record = results(tmp_path / "all")
    assert record["results"]["mine"]["scores"]["images"] == 4
    assert record["system"]["parameters_um"]["least_diameter"] > 0
    assert results(tmp_path / "train")["system"]["name"] == "Otsu"
    assert results(tmp_path / "train")["results"]["painted"]["tiles"] == ["tile0"]
    capsys.readouterr()
    assert run("--table", tmp_path / "all", tmp_path / "train" / "results.json") == 0
    printed = capsys.readouterr().out
    assert "| mine | classical (Otsu, watershed) | 4 |" in printed
    assert "| painted | Otsu | 1 |" in printed
    # The same in a file, which replaces an older one; and nothing where there is no table.
    file = tmp_path / "new" / "table.md"
    for _ in range(2):
        assert run("--table", tmp_path / "all", tmp_path / "train" / "results.json", "-o", file) == 0
        assert capsys.readouterr().out == f"{printed}table -> {file}\n"
        assert file.read_text(encoding="utf-8") == printed
    assert run("--table", tiles / "index.csv", "-o", tmp_path / "other.md") == 1
    assert run("--table", tmp_path / "all", "-o", tmp_path / "train") == 1
    assert f"{tmp_path / 'train'}: is a folder, where a file is needed" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "new", "split.json", "tiles", "train"]


def test_views_are_recorded(painted, tiles, tmp_path):
    pipe = evaluate.load_pipeline(None, None)
    arguments = ("--data", data_item(tiles), "--no-pages", "--resamples", "10", "--device", "cpu")
    passes = []
    for views, options in ((1, ()), (2, ("--views", "2"))):
        pipe.model.tiles.clear()
        assert run(*arguments, "-o", tmp_path / str(views), *options) == 0
        assert results(tmp_path / str(views))["system"]["views"] == views
        passes.append(len(pipe.model.tiles))
    assert passes[1] == 2 * passes[0] > 0


def test_mixed_precision_is_recorded(painted, tiles, tmp_path, monkeypatch):
    arguments = ("--data", data_item(tiles), "--no-pages", "--resamples", "10", "--device", "cpu")
    recorded = []
    for native, options in ((True, ()), (True, ("--autocast", "auto")), (False, ("--autocast", "auto"))):
        monkeypatch.setattr(precision, "native_bfloat16", lambda device, native=native: native)
        output = tmp_path / str(len(recorded))
        assert run(*arguments, "-o", output, *options) == 0
        recorded.append(results(output)["system"]["autocast_dtype"])
    assert recorded == [None, "bfloat16", None]


def test_a_u_net_is_evaluated_like_any_checkpoint(tiles, tmp_path):
    torch.manual_seed(0)
    model = UNetForNucleiSegmentation(UNetConfig(widths=(8, 16), num_types=2, id2label=NAMES))
    model.save_pretrained(tmp_path / "unet")
    arguments = ("--checkpoint", tmp_path / "unet", "--no-pages", "--resamples", "10", "--device", "cpu")
    with pytest.warns(UserWarning, match=r"unet has no processor_config\.json"):
        assert run("--data", data_item(tiles), "-o", tmp_path / "out", *arguments) == 0
    record = results(tmp_path / "out")
    assert record["system"]["name"] == "unet"
    assert record["system"]["model_type"] == "unet_nuclei"
    assert (record["system"]["source"], record["system"]["checkpoint"]) == ("unet", "unet")
    weights = (tmp_path / "unet" / "model.safetensors").read_bytes()
    assert record["system"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert str(tmp_path) not in json.dumps(record["system"])
    assert record["system"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert "type_f1_pooled/epithelial" in record["results"]["painted"]["scores"]


def test_pannuke_in_three_folds(painted, tmp_path, monkeypatch, capsys):
    root, out = write_pannuke(tmp_path / "pannuke", per_fold=3), tmp_path / "out"
    loaded = []
    pipe = evaluate.load_pipeline(None, None)
    monkeypatch.setattr(evaluate, "load_pipeline", lambda checkpoint, device: loaded.append(checkpoint) or pipe)
    for name in "ABC":
        (tmp_path / name).mkdir()
    item = ("--data", f"reader=pannuke,path={root}")
    models = [str(tmp_path / name) for name in "ABC"]
    assert run("--protocol", "pannuke", *item, "--fold-checkpoints", *models, "-o", out, "--device", "cpu") == 0
    assert loaded[:3] == models
    result = results(out)["results"]["pannuke"]
    # The official order: trained, validated and tested on.
    assert [f["train"] + f["validation"] + f["test"] for f in result["folds"]] == ["123", "213", "321"]
    for fold in result["folds"]:
        assert fold["tiles"] == [f"fold{fold['test']}_{index:04d}" for index in range(3)]
    scores = [fold["scores"] for fold in result["folds"]]
    for name in ("bpq_mean_over_tissues", "mpq_mean_over_tissues", "bpq_mean_over_images", "detection_f1_pooled"):
        values = [of_fold[name] for of_fold in scores]
        assert result["scores"][name] == pytest.approx(np.mean(values))
        assert result["deviations"][name] == pytest.approx(np.std(values, ddof=1))
    # The empty patch has no PQ, and the others are found.
    assert result["scores"]["images"] == 9
    assert result["scores"]["bpq_mean_over_images"] > 0.9
    colon = [
        f["tissues"]["Colon"]["scores"]["bpq_mean_over_images"] for f in result["folds"] if "Colon" in f["tissues"]
    ]
    assert result["tissues"]["Colon"]["scores"]["bpq_mean_over_images"] == pytest.approx(np.mean(colon))
    printed = capsys.readouterr().out
    assert "standard deviation over the folds" in printed
    assert "| mean over tissues |" in printed
    assert len(pd.read_csv(out / "images.csv")) == 9


def test_pannuke_validates_on_the_other_fold_and_takes_a_baseline(tmp_path):
    root, out = write_pannuke(tmp_path / "pannuke", per_fold=2), tmp_path / "out"
    arguments = ("--protocol", "pannuke", "--data", f"reader=pannuke,path={root}", "--baseline", "classical")
    assert run(*arguments, "--part", "validation", "-o", out, "--no-pages", "--resamples", "10") == 0
    result = results(out)["results"]["pannuke"]
    assert [f["tiles"][0] for f in result["folds"]] == ["fold2_0000", "fold1_0000", "fold2_0000"]
    assert result["scores"]["bpq_mean_over_tissues"] is not None


def test_a_score_that_a_fold_does_not_define_is_left_out_of_the_mean():
    folds = [
        {"tiles": [str(n)], "types": [], "scores": {"images": 1, "pq": pq}, "tissues": {}}
        for n, pq in enumerate((0.25, float("nan"), 0.75))
    ]
    averaged = average_folds(folds)
    assert averaged["scores"] == {"images": 3, "pq": 0.5}
    assert averaged["deviations"]["pq"] == pytest.approx(0.5 / np.sqrt(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{unsplit}", "-o", "{out}"], "no validation tiles .* --part all"),
        (["--data", "reader=nothing,path={tiles}", "-o", "{out}"], "unknown data set 'nothing'"),
        (["--data", "path={tiles}", "-o", "{out}"], "cannot read the data item"),
        (["--data", "{item}", "-o", "{out}", "--predictions", "{tiles}/none"], "none: no such folder"),
        (["--data", "{item}", "-o", "{out}", "--predictions", "{empty}"], "no label maps here"),
        (["--data", "{item}", "-o", "{out}", "--checkpoint", "/no/checkpoint"], "no such checkpoint folder"),
        (["--data", "{item}", "-o", "{out}", "--protocol", "pannuke"], "needs one data item"),
        (["--data", "reader=pannuke,path=x", "-o", "{out}", "--protocol", "pannuke"], "--fold-checkpoints A B C"),
        (["--table", "{tiles}/index.csv"], "not a results file"),
        (["--table", "{tiles}"], "results.json"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(tiles, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    item = data_item(tiles)
    places = {"tiles": tiles, "out": tmp_path / "out", "empty": tmp_path / "empty", "item": item}
    places["unsplit"] = item.replace(f",split={tmp_path / 'split.json'}", "")
    for name, place in places.items():
        arguments = [argument.replace(f"{{{name}}}", str(place)) for argument in arguments]
    assert run(*arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--data", "reader=consep,path=x"],
        ["--data", "x", "-o", "y", "--baseline", "classical", "--checkpoint", "z"],
        ["--data", "x", "-o", "y", "--fold-checkpoints", "a", "b", "c"],
        ["--data", "x", "-o", "y", "--types", "a,b"],
        ["--data", "x", "-o", "y", "--views", "3"],
        ["--data", "x", "-o", "y", "--views", "2", "--baseline", "classical"],
        ["--data", "x", "-o", "y", "--autocast", "bfloat16", "--predictions", "z"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert "evaluate" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_to_the_last_bit(tiles, tmp_path):
    tiny_test_model(num_types=2, id2label={1: "inflammatory", 2: "epithelial"}).save_pretrained(tmp_path / "model")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    found = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]):
        out = tmp_path / f"out{len(launcher)}"
        command = [
            *(sys.executable, *launcher, str(SCRIPT), "--checkpoint", str(tmp_path / "model"), "--device", "cpu"),
            *("--data", data_item(tiles), "-o", str(out), "--resamples", "100", "--no-pages"),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("results, tables and scores of 3 images") == 1
        found.append((results(out), pd.read_csv(out / "images.csv").drop(columns="seconds")))
    (one, images), (two, same_images) = found
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
    for key in ("tiles", "scores", "intervals", "tissues"):
        assert one["results"]["painted"][key] == two["results"]["painted"][key]
    pd.testing.assert_frame_equal(images, same_images, check_exact=True)
