"""Why: files and flags must be read alike, unknown values refused, and every committed recipe valid."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cfsam_hf.training import make_recipe, parse_recipe
from cfsam_hf.training.recipe import MAY_CHANGE, SECTIONS, differences

from .. import REPOSITORY

ROOT = REPOSITORY
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
NEEDED = ("--data", "reader=consep,path=CoNSeP", "--output_dir", "run")


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_command_line_has_the_last_word_over_the_file(recipe_file):
    path = recipe_file(
        "output_dir: run\ndata:\n  - {reader: consep, path: CoNSeP, weight: 0.5}\n  - reader=monuseg,path=MoNuSeg\n"
        "learning_rate: 3e-4\nsteps: 100\ngradient_checkpointing: true\nmixed_precision: no\nprogress: no\n"
        "train_encoder: false\nmodel_options: {loss_weights: {hv_mse: 1.0}}\nlog_with: []\n"
    )
    recipe = parse_recipe([path, "--steps", "7", "--gamma", "0.5"])
    # YAML's own reading of 3e-4 is text, and of no a truth value.
    assert recipe.optimization.learning_rate == 3e-4
    assert recipe.optimization.mixed_precision == "no"
    assert recipe.run.progress is False
    assert recipe.optimization.gradient_checkpointing is True
    assert recipe.optimization.steps == 7
    assert recipe.sampling.gamma == 0.5
    assert recipe.data.data == ["reader=consep,path=CoNSeP,weight=0.5", "reader=monuseg,path=MoNuSeg"]
    assert recipe.model.settings() == {"loss_weights": {"hv_mse": 1.0}}
    assert parse_recipe([path, "--data", "reader=a,path=b"]).data.data == ["reader=a,path=b"]


def test_the_values_written_by_a_run_are_a_recipe_again(recipe_file):
    import yaml

    recipe = parse_recipe([*NEEDED, "--model_options", '{"adapter_dim": 16}', "--no_progress"])
    again = parse_recipe([recipe_file(yaml.safe_dump(recipe.to_dict()))])
    assert again == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "no recipe has 'learning_rat'; did you mean 'learning_rate'"),
        ("- 1", "`name: value`"),
        ("a: [", "not YAML"),
    ],
)
def test_files_with_unknown_names_or_another_form_are_refused(recipe_file, text, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe([recipe_file(text), *NEEDED])


@pytest.mark.parametrize("flag", ["--learning_rat=1", "--learning", "--mixed_precision=fp8", "--steps=many"])
def test_unknown_abbreviated_and_ill_typed_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        parse_recipe([*NEEDED, flag])
    assert flag.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"ema_decay": 1.5},
        {"warmup_steps": -1},
        {"model_options": "["},
        {"model_options": "[]"},
        {"augmentation_options": {"stain": 1}},
        {"nucleus_probability": 2.0},
        {"colour": "red"},
    ],
)
def test_values_out_of_range_are_refused_by_name(values):
    with pytest.raises(ValueError, match=next(iter(values)) if "augmentation_options" not in values else "stain"):
        make_recipe(data=["reader=a,path=b"], output_dir="run", **values)


@pytest.mark.parametrize(
    ("values", "section", "expected"),
    [
        ({"learning_rate": "3e-4"}, "optimization", 3e-4),
        ({"learning_rate": 1}, "optimization", 1.0),
        ({"steps": 100.0}, "optimization", 100),
        ({"steps": "100"}, "optimization", 100),
        ({"mixed_precision": False}, "optimization", "no"),
        ({"compile": "yes"}, "optimization", True),
        ({"seed": None}, "optimization", 0),
        ({"model_options": {"adapter_dim": 16}}, "model", '{"adapter_dim": 16}'),
        ({"base": 5}, "model", "5"),
        ({"log_with": "wandb"}, "run", ["wandb"]),
        ({"data": {"reader": "a", "path": "b", "weight": 0.5}}, "data", ["reader=a,path=b,weight=0.5"]),
    ],
)
def test_values_of_yaml_and_of_programs_are_of_the_kind_of_their_field(values, section, expected):
    recipe = make_recipe(**{"data": ["reader=a,path=b"], "output_dir": "run", **values})
    found = getattr(getattr(recipe, section), next(iter(values)))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 1.5},
        {"steps": "many"},
        {"steps": True},
        {"steps": [1]},
        {"steps": float("inf")},
        {"learning_rate": "fast"},
        {"learning_rate": {}},
        {"mixed_precision": "fp8"},
        {"mixed_precision": True},
        {"compile": "perhaps"},
        {"data": []},
        {"output_dir": ""},
    ],
)
def test_values_of_another_kind_are_refused_by_name(values, recipe_file):
    import yaml

    given = {"data": ["reader=a,path=b"], "output_dir": "run", **values}
    with pytest.raises(ValueError, match=next(iter(values))):
        make_recipe(**given)
    with pytest.raises(ValueError, match=next(iter(values))):
        parse_recipe([recipe_file(yaml.safe_dump(given))])


@pytest.mark.parametrize("missing", ["data", "output_dir"])
def test_what_a_recipe_cannot_do_without_is_asked_for(missing):
    values = {"data": ["reader=a,path=b"], "output_dir": "run"}
    del values[missing]
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        make_recipe(**values)


def test_every_value_has_its_reason():
    for section in SECTIONS:
        for field in fields(section):
            assert len(field.metadata.get("help", "")) >= 5, field.name


def test_help_lists_every_value(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_recipe(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{field.name}" in shown for section in SECTIONS for field in fields(section))


def test_every_value_is_read():
    """A value that nothing reads would promise what does not happen."""
    library = [
        path
        for path in (ROOT / "cfsam_hf" / "training").glob("*.py")
        if path.name not in ("recipe.py", "recipe_reading.py")
    ]
    code = "\n".join(path.read_text() for path in [*library, ROOT / "examples" / "train.py"])
    # Of the sampling section the sampler takes the whole.
    sampler = (ROOT / "cfsam_hf" / "data" / "crops" / "sampling.py").read_text()
    own = (ROOT / "cfsam_hf" / "training" / "recipe.py").read_text()
    unread = [
        field.name
        for section in SECTIONS
        for field in fields(section)
        if not re.search(rf"\b(recipe\.\w+|options)\.{field.name}\b", code)
        and not re.search(rf"\boptions\.{field.name}\b", sampler)
        and not re.search(rf'_json_object\("{field.name}", self\.{field.name}\)|preset\(self\.{field.name},', own)
    ]
    assert unread == []


def test_values_that_may_change_are_values():
    names = {field.name for section in SECTIONS for field in fields(section)}
    assert names >= MAY_CHANGE
    before = make_recipe(data=["reader=a,path=b"], output_dir="run").to_dict()
    assert differences(before, before | {"output_dir": "elsewhere", "log_every": 1}) == []
    assert differences(before, before | {"seed": 3}) == ["seed 0 -> 3"]
    # A value that only one of two versions of this package knows is a difference too.
    assert differences(before, {k: v for k, v in before.items() if k != "gamma"}) == ["gamma 0.85 -> None"]
    # Of an older version, which did not know the option: as if it had been left at its default.
    older = {name: value for name, value in before.items() if name != "agreement_weight"}
    assert differences(older, before) == []
    assert differences(older, before | {"agreement_weight": 2.0}) == ["agreement_weight 0.0 -> 2.0"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipes_are_valid(path, monkeypatch):
    from cfsam_hf.data import READERS, read_split
    from cfsam_hf.data.data_items import DataItem
    from cfsam_hf.training.models import check_options

    monkeypatch.chdir(ROOT)
    recipe = parse_recipe([str(path)])
    check_options(recipe)
    for text in recipe.data.data:
        item = DataItem.parse(text)
        assert item.reader in READERS
        assert item.split is None or read_split(item.split).train
    text = path.read_text()
    # How to start it stands in it.
    assert f"examples/recipes/{path.name}" in text
    assert recipe.run.output_dir.startswith("runs/")


OPEN_DATA = {"nuinsseg", "tnbc", "dsb2018"}
LONG = [path for path in RECIPES if path.stem.startswith(("cfsam_tiny_open", "cfsam_tiny_long"))]


@pytest.mark.parametrize("path", LONG, ids=lambda path: path.stem)
def test_the_long_run_is_trained_on_training_tiles_alone(path, monkeypatch):
    from cfsam_hf.data.data_items import DataItem

    monkeypatch.chdir(ROOT)
    items = [DataItem.parse(text) for text in parse_recipe([str(path)]).data.data]
    restricted = set() if "open" in path.stem else {"consep", "monuseg", "crchisto"}
    assert {Path(item.path).parts[0] for item in items} == OPEN_DATA | restricted
    for item in items:
        # The splits of three parts, not the earlier ones, in which what now tunes was trained on.
        assert item.split == f"examples/splits/{Path(item.path).parts[0]}.json"
        assert item.style in (None, item.dataset)
        # Of an estimated pixel size; incomplete only for a model that has learned its organs.
        of_nuinsseg = item.dataset == "nuinsseg"
        assert (item.scale_jitter > 1) == of_nuinsseg
        assert item.incomplete == (of_nuinsseg and path.stem[-1] in "23")


@pytest.mark.parametrize("path", LONG, ids=lambda path: path.stem)
def test_no_tuning_or_validation_tile_is_among_the_long_runs_tiles(path, monkeypatch, real_data):
    from cfsam_hf.data.data_items import DataItem
    from cfsam_hf.data.leaks import find_leaks

    monkeypatch.chdir(ROOT)
    parts = {"train": [], "tuning": [], "validation": []}
    for text in parse_recipe([str(path)]).data.data:
        item = DataItem.parse(text)
        item = replace(item, path=str(real_data / item.path))
        for part, records in parts.items():
            records += [replace(record, dataset=item.dataset) for record in item.records(part)]
    assert all(len(records) > 50 for records in parts.values())
    assert find_leaks(parts) == []


def test_there_are_recipes_for_what_labs_have():
    assert {path.stem for path in RECIPES} >= {
        *("pannuke_sam_b", "pannuke_sam_l", "pannuke_sam_h", "consep", "monuseg", "own_data", "cpu_smoke"),
        *("cfsam_tiny", "cfsam_tiny_stage2", "cfsam_tiny_stage3", "cfsam_tiny_stage4"),
    }


def test_a_step_of_every_pannuke_recipe_sees_the_same_crops():
    crops = {
        recipe.optimization.batch_size * recipe.optimization.gradient_accumulation_steps
        for path in RECIPES
        if path.stem.startswith("pannuke")
        for recipe in [parse_recipe([str(path)])]
    }
    assert crops == {32}
