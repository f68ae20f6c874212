"""Why: the command must print a short table on success and one line on failure, and leave nothing half-written."""

import json

import cv2
import numpy as np
import pytest
import yaml

from cfsam_hf import CfSamConfig, bundled_checkpoint
from cfsam_hf.bases.bundled import bundled_names
from cfsam_hf.commands import terminal as cli
from cfsam_hf.training import TrainingStopped, finetune
from cfsam_hf.training.run import TrainingRun

from ..training.test_finetune import SMALL
from ..training_cases import write_base, write_qupath_tiles

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restores afterwards what `--cpu` sets for the process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Images, exports in a folder of their own, a base and a small recipe. Not to be changed."""
    root = tmp_path_factory.mktemp("case")
    write_qupath_tiles(root, 3).rename(root / "images")
    (root / "exports").mkdir()
    for path in (root / "images").glob("*.geojson"):
        path.rename(root / "exports" / path.name)
    write_base(root)
    (root / "recipe.yaml").write_text(yaml.safe_dump(SMALL))
    (root / "empty").mkdir()
    # Exports of which one is missing, and exports of one image alone.
    for name, keep in (("missing", "tile[01]"), ("other", "nothing")):
        (root / name).mkdir()
        for path in (root / "exports").glob(f"{keep}.geojson"):
            (root / name / path.name).write_bytes(path.read_bytes())
    (root / "other" / "somewhere.geojson").write_bytes((root / "exports" / "tile0.geojson").read_bytes())
    (root / "broken").mkdir()
    for path in (root / "exports").glob("*.geojson"):
        (root / "broken" / path.name).write_text(path.read_text()[:200])
    (root / "small").mkdir()
    cv2.imwrite(str(root / "small" / "one.png"), np.full((40, 40, 3), 200, np.uint8))
    square = [[[2, 2], [9, 2], [9, 9], [2, 9], [2, 2]]]
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": square}, "properties": {}}]
    (root / "small" / "one.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return root


def run(root, *arguments, images="images", annotations="exports", checkpoint="base"):
    return cli.main(
        [
            *("finetune", "--images", str(root / images), "--annotations", str(root / annotations), "--cpu"),
            *("--from", str(root / checkpoint), "--recipe", str(root / "recipe.yaml"), *map(str, arguments)),
        ]
    )


def test_it_trains_and_prints_what_came_of_it(case, tmp_path, capsys):
    assert run(case, "-o", tmp_path / "out", "--steps", "2", "--held-out", "tile2", "--mpp", ".25") == 0
    printed, log = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0].startswith("3 tiles with ")
    assert lines[1] == "2 train, 1 held out (by name): tile2"
    assert "| held-out tiles | before | 1 |" in printed
    assert "| held-out tiles | after | 1 |" in printed
    assert lines[-1].startswith(f"model, adapter, scores and pictures -> {tmp_path / 'out'}")
    assert "step 2 loss" in log
    # Again: nothing to do, and the same table.
    assert run(case, "-o", tmp_path / "out", "--steps", "2", "--held-out", "tile2", "--mpp", ".25") == 0
    again = capsys.readouterr().out
    assert again.startswith(f"this run is already finished in {tmp_path / 'out'}:")
    table = [line for line in lines if line.startswith("|")]
    assert [line for line in again.splitlines() if line.startswith("|")] == table
    # Other options, the same folder.
    assert run(case, "-o", tmp_path / "out", "--steps", "3", "--held-out", "tile2", "--mpp", ".25") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "other tiles or options (steps 2 -> 3)" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_names())
def test_every_bundled_checkpoint_can_be_fine_tuned(name, case, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("-o", out, "--steps", "1", "--held-out", "tile2", "--mpp", ".25", "--from", name)
    assert run(case, *options) == 0
    assert "| held-out tiles | after | 1 |" in capsys.readouterr().out
    base = CfSamConfig.from_pretrained(bundled_checkpoint(name)).checkpoint_info
    info = CfSamConfig.from_pretrained(out / "model").checkpoint_info
    # The terms of the base's weights and data stay with what was made of them.
    assert (info["license"], info["license_note"]) == (base["license"], base["license_note"])


@pytest.mark.parametrize(
    ("arguments", "places", "message"),
    [
        ([], {"images": "none"}, "none: no such folder"),
        ([], {"images": "empty"}, "no image for tile0.geojson"),
        ([], {"annotations": "none"}, "none: no such folder or file"),
        ([], {"annotations": "empty"}, "no label map for tile0.png, tile1.png, tile2.png"),
        ([], {"annotations": "missing"}, "no .geojson file for tile2.png"),
        ([], {"annotations": "other"}, "no .geojson file (found somewhere.geojson; "),
        ([], {"annotations": "broken"}, "not a JSON file that can be read"),
        ([], {"annotations": "recipe.yaml"}, "no GeoJSON or other file of outlines"),
        (["--types", "round"], {}, "unknown class 'flat'"),
        (["--held-out", "tile9"], {}, "no annotated image tile9 to hold out"),
        (["--held-out", "tile0", "tile1", "tile2"], {}, "all tiles are held out"),
        (["--held-out-share", "1"], {}, "must lie between 0 and 1"),
        (["--mpp", "1000"], {}, "micrometres per pixel"),
        ([], {"images": "small", "annotations": "small"}, "only one tile, one, too small or with too few nuclei"),
        ([], {"checkpoint": "none"}, "none: there is no such folder"),
        ([], {"checkpoint": "empty"}, "it has no config.json"),
        (["--recipe", "none.yaml"], {}, "none.yaml: No such file"),
    ],
)
def test_bad_input_is_a_line_and_nothing_is_written(case, tmp_path, capsys, arguments, places, message):
    assert run(case, "-o", tmp_path / "out", *arguments, **places) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cfsam: error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--images", "x"],
        ["--images", "x", "-o", "y", "--held-out", "a", "--no-held-out"],
        ["--images", "x", "-o", "y", "--steps", "0"],
        ["--images", "x", "-o", "y", "--minutes", "-1"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["finetune", *arguments])
    assert stopped.value.code == 2
    assert "finetune" in capsys.readouterr().err


def test_a_run_that_cannot_go_on_is_told_in_a_line(case, tmp_path, capsys, monkeypatch):
    def stop(run):
        raise TrainingStopped("The loss of step 0 is not finite.")

    monkeypatch.setattr(TrainingRun, "train", stop)
    assert run(case, "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "cfsam: error: The loss of step 0 is not finite."
    assert not (tmp_path / "out" / finetune.RESULTS).exists()
