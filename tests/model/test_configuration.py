"""Why: types, names and colours must agree, and values out of range be refused by name."""

import pytest
from transformers import AutoConfig, SamConfig

from cfsam_hf import CfSamConfig

from ..tiny import tiny_test_config


def test_types_come_from_num_types_or_from_names():
    assert CfSamConfig(num_types=2).id2label == {0: "background", 1: "type 1", 2: "type 2"}
    named = CfSamConfig(id2label={1: "epithelial", 2: "other"})
    assert named.num_types == 2
    assert named.type_names == {1: "epithelial", 2: "other"}
    assert named.label2id["other"] == 2
    assert len(named.type_colors) == 2


def test_without_types_there_is_one_label_and_no_type():
    config = CfSamConfig()
    assert config.num_types == 0
    assert config.id2label == {0: "background", 1: "nucleus"}
    assert config.type_names == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_types": -1}, "-1"),
        ({"num_types": 3, "id2label": {1: "a", 2: "b"}}, r"1\.\.3"),
        ({"id2label": {1: "a", 3: "b"}}, r"\[1, 3\]"),
        ({"id2label": {1: "a", 2: "a"}}, "same name"),
        ({"num_types": 0, "id2label": {1: "a"}}, "num_types is 0"),
        ({"num_types": 2, "type_colors": ["#ff0000"]}, "2 colours"),
        ({"num_types": 1, "type_colors": ["red"]}, "'red'"),
        ({"mpp": 0.0}, r"0\.0"),
        ({"mask_stride": 8}, "8"),
        ({"vision_config": {"patch_size": 8}, "mask_stride": 1}, "at least 2.* got 1"),
        ({"vision_config": {"patch_size": 14}}, "power of two.* got 14"),
        ({"adapter_kernel_sizes": [3, 4]}, r"\[3, 4\]"),
        ({"adapter_layers": [12]}, r"0\.\.11"),
        ({"fusion_layers": [2, 2]}, r"\[2, 2\]"),
        ({"fusion_layers": []}, "use_hmfm"),
        ({"nuclei_loss": "mse"}, "'mse'"),
        ({"num_types": 2, "type_loss_weights": [1.0, 1.0]}, "3 values"),
        ({"format_version": 99}, "99"),
        ({"fusion_dim": 0}, "fusion_dim"),
        ({"num_types": 10**12}, r"num_types must lie in 0\.\.1000, got 1000000000000"),
        ({"num_labels": 10**12}, r"num_types must lie in 0\.\.1000, got 999999999999"),
        (
            {"vision_config": {"num_hidden_layers": 10**12}},
            "num_hidden_layers must be at most 1000, got 10000",
        ),
        ({"refinement_dilations": [1, 0]}, r"1\.\.256, got \[1, 0\]"),
        ({"refinement_dilations": [10**6]}, r"1\.\.256, got \[1000000\]"),
        ({"id2label": {1: ["a"]}}, r"got \['a'\] for the type 1"),
        ({"id2label": {1: 5}}, "got 5 for the type 1"),
        ({"id2label": {1: " "}}, "name of 1 to 100 characters .* got ' ' for"),
        ({"id2label": {1: "a", 2: "\x1b[2J"}}, r"without control characters, got '\\x1b\[2J' for the type 2"),
        ({"id2label": {1: "a" * 101}}, "got 'aaaa.* for the type 1"),
        ({"styles": ["a\nb"]}, "styles must be distinct names"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_value(options, message):
    with pytest.raises(ValueError, match=message):
        CfSamConfig(**options)


def test_round_trip_through_a_folder(tmp_path):
    config = tiny_test_config(id2label={1: "a", 2: "b"}, num_types=2, type_colors=["#000000", "#ffffff"], mpp=0.5)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, CfSamConfig)
    ignored = {"_name_or_path": None}
    assert loaded.to_dict() | ignored == config.to_dict() | ignored


def test_new_types_replace_the_stored_ones_when_given_by_name(tmp_path):
    tiny_test_config(num_types=3).save_pretrained(tmp_path)
    assert CfSamConfig.from_pretrained(tmp_path, num_types=1).id2label == {0: "background", 1: "type 1"}
    assert CfSamConfig.from_pretrained(tmp_path, id2label={1: "x", 2: "y"}).num_types == 2
    assert CfSamConfig.from_pretrained(tmp_path, adapter_layers=[0]).num_types == 3


@pytest.mark.parametrize("num_types", [2, None])
def test_the_stored_number_of_types_given_again_keeps_names_colours_and_weights(tmp_path, num_types):
    own = {"id2label": {1: "a", 2: "b"}, "type_colors": ["#000000", "#ffffff"], "type_loss_weights": [1.0, 2.0, 3.0]}
    tiny_test_config(num_types=2, **own).save_pretrained(tmp_path)
    config = CfSamConfig.from_pretrained(tmp_path, num_types=num_types)
    assert config.type_names == own["id2label"]
    assert config.type_colors == own["type_colors"]
    assert config.type_loss_weights == own["type_loss_weights"]


def test_types_are_named_by_number(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "cfsam", "id2label": {"x": "a"}}')
    with pytest.raises(ValueError, match="id2label must name the types by their numbers, got the key 'x'"):
        CfSamConfig.from_pretrained(tmp_path)


def test_a_plain_sam_configuration_is_read_as_it_is(tmp_path):
    SamConfig().save_pretrained(tmp_path)
    config = CfSamConfig.from_pretrained(tmp_path, num_types=5)
    assert config.num_types == 5
    assert config.fusion_layers == [2, 5, 8, 11]
    assert config.vision_config.hidden_size == 768


def test_num_labels_counts_background_and_must_fit_the_types(tmp_path):
    assert CfSamConfig(num_labels=5).num_types == 4
    assert CfSamConfig(num_labels=3, id2label={1: "a", 2: "b"}).type_names == {1: "a", 2: "b"}
    assert CfSamConfig(num_labels=2).num_types == 0
    with pytest.raises(ValueError, match=r"num_labels=4 does not fit the 3 labels .* pass num_types=3"):
        CfSamConfig(num_labels=4, num_types=2)
    config = CfSamConfig(id2label={1: "a", 2: "b"})
    assert config.num_labels == 3
    config.num_labels = 3
    with pytest.raises(ValueError, match="num_labels=2 does not fit the 3 labels"):
        config.num_labels = 2
    assert config.type_names == {1: "a", 2: "b"}
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_labels=2 does not fit"):
        AutoConfig.from_pretrained(tmp_path, num_labels=2)
    assert AutoConfig.from_pretrained(tmp_path, num_labels=3).type_names == {1: "a", 2: "b"}
    assert AutoConfig.from_pretrained(tmp_path, num_labels=5, num_types=4).num_labels == 5
    SamConfig().save_pretrained(tmp_path / "sam")
    assert CfSamConfig.from_pretrained(tmp_path / "sam", num_labels=5).num_types == 4
