"""Why: fine-tuning must keep the encoder, survive a kill, score both models alike, and write nothing for bad input."""

import json
import re

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from cfsam_hf import CfSamForNucleiSegmentation
from cfsam_hf.evaluation.tuning import tuning_tiles
from cfsam_hf.training import finetune as module
from cfsam_hf.training.finetune import RECIPE, FinetuneOptions, finetune
from cfsam_hf.training.recipe_reading import read_recipe_file
from cfsam_hf.training.run import TrainingRun

from .. import REPOSITORY
from ..training_cases import TYPES, write_base, write_qupath_tiles, write_tiles

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

# The built-in recipe, small.
SMALL = {
    **read_recipe_file(RECIPE),
    **{"crop_size": 64, "tile_overlap": 16, "num_workers": 0, "steps": 4, "batch_size": 2, "evaluate_every": 0},
    **{"save_every": 2, "picture_every": 0, "log_every": 2, "progress": False},
}


class Killed(BaseException):
    """Ends a run as a signal does: nothing catches it."""


def write_case(root, tiles=5, **base):
    """Annotated tiles, a tiny base of other types and a small recipe; gives the arguments of a call."""
    write_qupath_tiles(root, tiles)
    write_base(root, **{"id2label": {1: "tumour", 2: TYPES[0]}, "num_types": 2, **base})
    (root / "recipe.yaml").write_text(yaml.safe_dump(SMALL))
    options = {"checkpoint": str(root / "base"), "recipe": str(root / "recipe.yaml")}
    return (root / "qupath", root / "qupath", root / "run"), options


def call(case, **changes):
    (images, annotations, output), options = case
    said = []
    output = changes.pop("output", output)
    annotations = changes.pop("annotations", annotations)
    done = finetune(images, annotations, output, FinetuneOptions(**{**options, **changes}), said.append)
    return done, said


def read_geojson(path):
    return json.loads(path.read_text())["features"]


def write_geojson(path, features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing disturbed. Not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    case = write_case(root)
    done, said = call(case)
    return case, done, said


def test_what_is_written(finished):
    _, done, said = finished
    assert said[0].startswith("5 tiles with ")
    assert "in GeoJSON (flat " in said[0]
    assert said[1].startswith("4 train, 1 held out (drawn with seed 0): tile")
    results = json.loads((done.folder / "finetune.json").read_text())
    assert results == json.loads(json.dumps(done.results))
    [held_out] = results["tiles"]["held_out"]
    before, after = (results["results"][when]["results"]["held-out tiles"] for when in ("before", "after"))
    assert before["tiles"] == after["tiles"] == [held_out]
    # The base does not know one of the types.
    assert (before["types"], after["types"]) == ([], list(TYPES))
    decodings = [results["results"][when]["system"]["decoding"] for when in ("before", "after")]
    assert decodings[0] == decodings[1] == results["decoding"]
    for label in ("| before |", "| after |"):
        assert label in done.table
    text = (done.folder / "finetune.md").read_text()
    assert done.table in text
    assert held_out in text
    assert Image.open(done.folder / "before_after.png").width > 300
    assert json.loads((done.folder / "after" / "results.json").read_text())["results"]["held-out tiles"] == after
    for name in ("adapter", "model", "report.html", "recipe.yaml", "before"):
        assert (done.folder / name).exists()


def test_the_command_that_calibrates_scores_sees_no_held_out_tile(finished):
    _, done, _ = finished
    [shown] = re.findall(
        r"`python (examples/tools/.+?\.py) .* --data (\S+)`", (done.folder / "finetune.md").read_text()
    )
    assert (REPOSITORY / shown[0]).is_file()
    [used] = tuning_tiles([shown[1]], 100).values()
    tiles = done.results["tiles"]
    assert sorted(record.id for record in used) == sorted(tiles["train"])
    assert not {record.id for record in used} & set(tiles["held_out"])


def test_after_is_what_the_run_itself_has_validated(finished):
    _, done, _ = finished
    own = json.loads((done.folder / "results.json").read_text())["results"]["held-out tiles"]["scores"]
    scores = done.results["results"]["after"]["results"]["held-out tiles"]["scores"]
    assert scores["pq_mean_over_images"] == pytest.approx(own["pq_mean_over_images"])


def test_only_the_adapter_is_trained_and_it_is_the_model_on_its_base(finished):
    (_, options), done, _ = finished
    base = load_file(f"{options['checkpoint']}/model.safetensors")
    model = CfSamForNucleiSegmentation.from_pretrained(done.folder / "model").eval()
    assert list(model.config.type_names.values()) == list(TYPES)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = [name for name in base if name.startswith("sam.vision_encoder.") and name not in trained]
    assert len(frozen) > 20
    for name in frozen:
        assert torch.equal(model.state_dict()[name], base[name]), name
    adapters = [name for name in base if ".adapter." in name]
    assert any(not torch.equal(model.state_dict()[name], base[name]) for name in adapters)
    again = CfSamForNucleiSegmentation.from_adapter(done.folder / "adapter").eval()
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = model(pixel_values=pixels), again(pixel_values=pixels)
    assert torch.equal(one.nuclei_logits, other.nuclei_logits)
    assert torch.equal(one.type_logits, other.type_logits)


def test_every_value_is_the_recipes_but_for_what_was_said(finished):
    _, done, _ = finished
    used = read_recipe_file(done.folder / "recipe.yaml")
    differ = {name for name, value in SMALL.items() if used[name] != value and str(used[name]) != str(value)}
    # 3e-4 is text to YAML; a run of 4 steps cannot warm up for 50.
    assert differ == {"base", "data", "output_dir", "learning_rate", "warmup_steps"}
    assert used["learning_rate"] == float(SMALL["learning_rate"])
    assert used["warmup_steps"] == 1
    assert used["export"] == "last"


def test_the_recipe_of_the_package_is_the_example():
    example = REPOSITORY / "examples" / "recipes" / "own_data.yaml"
    assert example.read_bytes() == RECIPE.read_bytes()


def test_the_same_call_again_does_nothing(finished):
    case, done, _ = finished
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    again, said = call(case)
    assert again.was_done
    assert again.table == done.table
    assert said == []
    assert before == {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 9}, "steps None -> 9"),
        ({"seed": 3}, "seed 0 -> 3"),
        ({"held_out": ("tile1",)}, "held_out None ->"),
        ({"mpp": 0.5}, r"mpp None -> 0\.5; the image of the annotated tile tile0 is different"),
    ],
)
def test_a_folder_of_another_run_is_left_alone(finished, changes, message):
    case, done, _ = finished
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    with pytest.raises(ValueError, match=message):
        call(case, **changes)
    assert before == {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}


def test_a_folder_with_other_files_is_left_alone(finished, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OSError, match="do not belong to a fine-tuning"):
        call(finished[0], output=tmp_path)
    with pytest.raises(OSError, match="is a file, where a folder is needed"):
        call(finished[0], output=tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("before the tiles are kept", marks=pytest.mark.slow),
        "in a step",
        pytest.param("in the scores", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(finished, tmp_path, monkeypatch, place):
    (paths, options), done, _ = finished
    case = (*paths[:2], tmp_path / "run"), options

    def die(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        if place == "before the tiles are kept":
            patch.setattr(module, "keep_tiles", die)
        elif place == "in the scores":
            patch.setattr(module, "dataset_record", die)
        else:
            optimise = TrainingRun._optimise
            patch.setattr(TrainingRun, "_optimise", lambda run: die() if run.step == 3 else optimise(run))
        with pytest.raises(Killed):
            call(case)
    assert not (tmp_path / "run" / "finetune.json").exists()
    again, _ = call(case)
    assert not again.was_done
    weights = [load_file(folder / "adapter" / "cfsam_adapter.safetensors") for folder in (done.folder, again.folder)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert again.table == done.table


def test_minutes_bound_the_steps_once(tmp_path, monkeypatch):
    case = write_case(tmp_path, 2)
    timed = []
    seconds = module._seconds_per_step

    def slow(*arguments):
        timed.append(seconds(*arguments))
        return 20.0

    def die(*arguments):
        raise Killed

    monkeypatch.setattr(module, "_seconds_per_step", slow)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train", die)
        with pytest.raises(Killed):
            call(case, minutes=1.0)
    done, said = call(case, minutes=1.0)
    assert done.results["steps_planned"] == 3
    assert not any("fit into" in sentence for sentence in said)
    [measured] = timed
    assert measured > 0


def test_one_class_null_classes_partly_annotated_and_empty_tiles(tmp_path):
    case = write_case(tmp_path, 4)
    folder = case[0][0]
    for path in sorted(folder.glob("*.geojson")):
        features = read_geojson(path)
        for number, feature in enumerate(features):
            if number % 2:
                feature["properties"]["classification"] = None
            else:
                feature["properties"]["classification"]["name"] = "Nucleus"
        write_geojson(path, [] if path.stem == "tile0" else features)
    region = {"type": "Polygon", "coordinates": [[[0, 0], [96, 0], [96, 70], [0, 70], [0, 0]]]}
    properties = {"objectType": "annotation", "classification": {"name": "Region*"}}
    features = read_geojson(folder / "tile2.geojson")
    write_geojson(
        folder / "tile2.geojson", [*features, {"type": "Feature", "geometry": region, "properties": properties}]
    )
    done, said = call(case, held_out=("tile3",), mpp=0.25)
    assert done.results["types"] == ["Nucleus"]
    assert done.results["nuclei"].keys() == {"Nucleus", "without class"}
    after = done.results["results"]["after"]["results"]["held-out tiles"]
    # Not every nucleus of the held-out tile has a type: those that have one are scored.
    assert after["types"] == ["Nucleus"]
    assert 0 < after["scores"]["true_nuclei_without_type"] < after["scores"]["true_nuclei"]
    assert 0 <= after["scores"]["dice_mean_over_images"] <= 1
    notes = " ".join(said)
    for words in ("1 of the tiles have no nuclei", "1 of the tiles are partly annotated", "nuclei without a class"):
        assert words in notes
    assert CfSamForNucleiSegmentation.from_pretrained(done.folder / "model").config.num_types == 1


def test_one_tile_and_types_that_the_base_knows(tmp_path):
    case = write_case(tmp_path, 1, id2label={1: TYPES[1], 2: TYPES[0], 3: "other"}, num_types=3)
    done, said = call(case, held_out_share=0.35)
    assert done.results["tiles"] == {"train": ["tile0_train"], "held_out": ["tile0_held_out"]}
    assert any("there is only one tile" in sentence for sentence in said)
    # In the base's order, and scored before as after.
    assert done.results["types"] == [TYPES[1], TYPES[0], "other"]
    for when in ("before", "after"):
        assert done.results["results"][when]["results"]["held-out tiles"]["types"] == [TYPES[1], TYPES[0], "other"]


def test_label_maps_without_types_and_nothing_held_out(tmp_path):
    case = write_case(tmp_path, 2)
    folder = write_tiles(tmp_path / "maps", 2)
    done, said = call(((folder, folder, tmp_path / "out"), case[1]), held_out=())
    assert done.table == ""
    assert done.results["results"] == {}
    assert not (done.folder / "before_after.png").exists()
    assert done.results["types"] == ["tumour", TYPES[0]]
    assert any("nothing is held out" in sentence for sentence in said)
    assert any("the checkpoint keeps its types" in sentence for sentence in said)
    assert "held out 0: none" in (done.folder / "finetune.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "/no/such"}, "/no/such"),
        ({"checkpoint": "tiny"}, "random weights"),
        ({"types": ("round",)}, "unknown class 'flat'"),
        ({"held_out": ("tile7",)}, "no annotated image tile7"),
        ({"mpp": -1.0}, "mpp must be"),
        ({"held_out_share": 1.0}, "held_out_share must lie between"),
        ({"annotations": "nothing"}, "no such folder"),
        ({"recipe": "recipe.txt"}, "a recipe is a .yaml file"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(finished, tmp_path, changes, message):
    with pytest.raises((OSError, ValueError), match=message):
        call(finished[0], output=tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_several_processes_are_sent_elsewhere(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="accelerate launch"):
        call(finished[0], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_trains_the_encoder_is_refused(finished, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**SMALL, "train_encoder": True}))
    with pytest.raises(ValueError, match="train_encoder"):
        call(finished[0], output=tmp_path / "out", recipe=str(tmp_path / "recipe.yaml"))
    assert not (tmp_path / "out").exists()
