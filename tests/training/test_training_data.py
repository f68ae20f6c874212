"""What a recipe says about a folder must reach its crops: style, doubtful labels, points that nothing scores."""

import json

import pytest

from cfsam_hf.training import build_crops, build_model, build_processor, load_training_data, make_accelerator

from ..training_cases import smoke_recipe, start_run

POINTS = "x,y,type\n20,20,1\n60,40,3\n30,70,0\n"


@pytest.fixture
def points(training_root):
    """A folder of two tiles with typed points, one of which validates, as a data item."""
    folder = training_root / "points"
    folder.mkdir()
    for tile in ("tile0", "tile2"):
        (folder / f"{tile}.png").write_bytes((training_root / "pairs" / f"{tile}.png").read_bytes())
        (folder / f"{tile}_points.csv").write_text(POINTS)
    split = {"dataset": "pointed", "train": ["tile0"], "validation": ["tile2"]}
    (training_root / "points.json").write_text(json.dumps(split))
    return f"reader=crchisto,path={folder},split={training_root / 'points.json'},mpp=0.25"


def crops_of(recipe):
    data = load_training_data(recipe)
    model = build_model(recipe, list(data.type_names.values()))
    processor = build_processor(recipe, model.config).image_processor
    return build_crops(recipe, data, model.config, processor, make_accelerator(recipe))


def test_settings_of_a_data_item_reach_its_crops(training_root):
    pairs = f"reader=instance_pairs,path={training_root / 'pairs'},split={training_root / 'split.json'}"
    data = [f"{pairs},style=soft,scale_jitter=1.3,incomplete=true", pairs]
    with pytest.raises(ValueError, match="no style 'soft'"):
        crops_of(smoke_recipe(training_root, data=data))
    crops = crops_of(smoke_recipe(training_root, data=data, model_options={"styles": ["hard", "soft"]}, steps=20))
    own, plain = crops.sources
    assert [(s.style_id, s.scale_jitter, s.incomplete) for s in (own, plain)] == [(2, 1.3, True), (0, 1.0, False)]
    styles = {int(crops[i]["style_ids"]): crops[i]["nuclei_labels"] for i in range(20)}
    assert set(styles) == {0, 2}
    assert not (styles[0] == -1).any()
    # A model without styles gets none.
    assert "style_ids" not in crops_of(smoke_recipe(training_root))[0]


def test_points_train_beside_outlines_and_are_not_validated(training_root, points):
    outlines = f"reader=instance_pairs,path={training_root / 'pairs'},split={training_root / 'split.json'}"
    run = start_run(smoke_recipe(training_root, data=[outlines, points], steps=2, save_every=2))
    assert list(run.data.validation) == ["painted"]
    assert list(run.data.type_names.values()) == ["miscellaneous", "inflammatory", "epithelial", "fibroblast"]
    run.train()
    assert run.step == 2
