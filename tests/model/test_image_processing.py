"""Why: the processor must give the network the pixels it was trained on, and map outputs back to image pixels."""

import dataclasses
import re

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from scipy.special import logit
from transformers import pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import ModelOutput

from cfsam_hf import CfSamImageProcessor
from cfsam_hf.model.decoding import DecodingParameters
from cfsam_hf.model.maps import MapLayout, stack_maps
from cfsam_hf.model.scores import ScoreWeights
from cfsam_hf.model.tiling import pad_right_bottom

from ..painted_model import PaintedModel, paint, painted_config

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def outputs_of(processor, image, num_types=2, **options):
    with torch.inference_mode():
        return PaintedModel(painted_config(num_types))(**processor(image, return_tensors="pt", **options))


def test_pixels_are_scaled_normalised_and_padded_by_reflection():
    image = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    processor = CfSamImageProcessor()
    values = processor(image, return_tensors="pt")
    assert list(values) == ["pixel_values"]
    assert values["pixel_values"].shape == (1, 3, 32, 48)
    assert values["pixel_values"].dtype == torch.float32
    expected = ((pad_right_bottom(image, 32, 48) / 255 - MEAN) / STD).transpose(2, 0, 1)
    assert np.abs(values["pixel_values"][0].numpy() - expected).max() < 1e-5
    tile = image[None, :16, :16]
    assert np.array_equal(processor.pixel_values(tile)[0], values["pixel_values"][0, :, :16, :16].numpy())


def test_images_of_a_batch_are_padded_to_the_largest():
    images = [np.zeros((30, 20, 3), np.uint8), PIL.Image.new("L", (40, 10)), torch.zeros(3, 8, 8, dtype=torch.uint8)]
    assert CfSamImageProcessor()(images, return_tensors="pt")["pixel_values"].shape == (3, 3, 32, 48)
    assert CfSamImageProcessor()(np.zeros((4, 16, 16, 3), np.uint8), return_tensors="np")["pixel_values"].shape[0] == 4
    assert CfSamImageProcessor(pad_multiple=64)(images, return_tensors="np")["pixel_values"].shape == (3, 3, 64, 64)


def test_a_given_mpp_resamples_to_the_models():
    processor = CfSamImageProcessor(mpp=0.5)
    image = np.zeros((64, 64, 3), np.uint8)
    assert processor(image, mpp=0.25, return_tensors="np")["pixel_values"].shape[2:] == (32, 32)
    assert processor(image, return_tensors="np")["pixel_values"].shape[2:] == (64, 64)
    with pytest.raises(ValueError, match="mpp"):
        processor(image, mpp=-1.0)


def test_options_are_saved_and_restored(tmp_path):
    processor = CfSamImageProcessor(
        mpp=0.5,
        tile_size=512,
        tile_overlap=128,
        smallest_tile_size=256,
        pad_multiple=32,
        max_pixels=10**6,
        decoding={"minimum_area": 30, "score_weights": {"area": 0.5}},
        image_mean=[0.7, 0.6, 0.7],
        image_std=[0.2, 0.2, 0.2],
    )
    processor.save_pretrained(tmp_path)
    for restored in (CfSamImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(restored) is CfSamImageProcessor
        assert restored.to_dict() == processor.to_dict()
        assert restored.decoding_parameters() == DecodingParameters(
            minimum_area=30, score_weights=ScoreWeights(area=0.5)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": 99.0}, "mpp"),
        ({"tile_size": 250}, "multiple of pad_multiple"),
        ({"tile_overlap": 256}, "tile_overlap"),
        ({"smallest_tile_size": 100}, "smallest_tile_size must be a multiple of pad_multiple, 16"),
        ({"smallest_tile_size": 512}, "at most tile_size, 256; got 512"),
        ({"decoding": {"minimum_aera": 3}}, "minimum_aera"),
        ({"decoding": {"nuclei_threshold": 2.0}}, "nuclei_threshold"),
        ({"decoding": {"score_weights": {"aera": 1.0}}}, "aera"),
        ({"decoding": 3}, "decoding is 3"),
        ({"score_calibration": [2.0, -0.5]}, "score_calibration is [2.0, -0.5]: it is part of decoding now"),
        ({"decoding": {"score_weights": {"area": float("nan")}}}, "score weight area is nan"),
        ({"decoding": {"score_weights": {"area": 10**400}}}, "score weight area is 1000000"),
        ({"decoding": {"boundary_weight": 1e308}}, "boundary_weight is 1e+308: it must lie between 0 and 1e+06"),
        ({"decoding": {"minimum_area": 10**30}}, "it must lie in 0..2147483648 pixels"),
        ({"tile_size": 4112}, "tile_size is 4112: it must lie in 1..4096"),
        ({"tile_overlap": 193}, "tile_overlap is 193: it must be at most 3/4 of tile_size, 256"),
        ({"max_pixels": -1}, "max_pixels is -1"),
        ({"image_std": [0.2, 0.0, 0.2]}, "image_std is (0.2, 0.0, 0.2): it must be finite and positive"),
        ({"image_mean": float("nan")}, "image_mean is nan: it must be finite"),
        ({"rescale_factor": float("inf")}, "rescale_factor is inf: it must be finite and positive"),
        ({"decode_maps": None}, "decode_maps is not an option of the image processor but a part of its code"),
        ({"__dict__": {}}, "__dict__ is not an option"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CfSamImageProcessor(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: value}, "it must be a whole number of pixels")
          for name in ("tile_size", "smallest_tile_size", "tile_overlap", "pad_multiple", "max_pixels",
                       "max_pass_pixels")
          for value in ("64", 2.5, True, [64])),
        *(({name: value}, "it must be true or false")
          for name in ("do_convert_rgb", "do_rescale", "do_normalize", "do_pad") for value in ("no", 1)),
        *(({name: value}, "it must be one number or three")
          for name in ("image_mean", "image_std") for value in ("abc", [1, 2], {"a": 1}, [[1], [2], [3]], [True] * 3)),
        ({"rescale_factor": [1, 2, 3]}, "it must be one number"),
    ],
)  # fmt: skip
def test_options_of_another_kind_are_named(options, message):
    [(name, _)] = options.items()
    with pytest.raises(TypeError, match=f"{name} .*{message}"):
        CfSamImageProcessor(**options)


def test_no_images_are_refused():
    for images, kind in (([], ValueError), ((), ValueError), (None, TypeError), (7, TypeError), ([3], TypeError)):
        with pytest.raises(kind, match="picture"):
            CfSamImageProcessor()(images)


def test_whatever_holds_several_pictures_is_a_batch():
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return images[index]

    images = list(np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8))
    processor = CfSamImageProcessor()
    expected = processor(images, return_tensors="np")["pixel_values"]
    others = (
        tuple(images),
        np.stack(images),
        torch.from_numpy(np.stack(images)),
        pd.Series(images),
        datasets.Dataset.from_dict({"image": [PIL.Image.fromarray(image) for image in images]})["image"],
        Items(),
        iter(images),
        [images[:1], images[1:]],
    )
    for batch in others:
        assert np.array_equal(processor(batch, return_tensors="np")["pixel_values"], expected), type(batch)


def test_too_large_for_one_pass_names_the_way_out():
    with pytest.raises(ValueError, match="nuclei-segmentation"):
        CfSamImageProcessor()(np.zeros((1100, 1100, 3), np.uint8))


def test_outputs_become_nuclei_without_the_padding():
    image, instance_map, types = paint(90, 75, 12)
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, image)
    [result] = processor.post_process_nuclei(outputs, target_sizes=[(90, 75)], type_names={1: "a", 2: "b"})
    assert np.array_equal(result.instance_map, instance_map)
    assert result.table["type"].tolist() == types.tolist()
    assert result.type_names == {1: "a", 2: "b"}
    [padded] = processor.post_process_nuclei(outputs)
    assert padded.instance_map.shape == (96, 80)


def test_outputs_of_a_resampled_image_come_back_in_its_pixels():
    image, instance_map, _ = paint(60, 70, 8, scale=2)
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, image, mpp=0.125)
    [result] = processor.post_process_nuclei(outputs, target_sizes=[image.shape[:2]], mpp=0.125)
    assert result.instance_map.shape == image.shape[:2]
    assert len(result) == instance_map.max()
    assert ((result.instance_map > 0) != (instance_map > 0)).mean() < 0.03
    with pytest.raises(ValueError, match="target_sizes"):
        processor.post_process_nuclei(outputs, mpp=0.125)


def test_wrong_target_sizes_are_named():
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, paint(60, 70, 4)[0])
    with pytest.raises(ValueError, match="200x70"):
        processor.post_process_nuclei(outputs, target_sizes=[(200, 70)])
    with pytest.raises(ValueError, match="2 sizes for 1 images"):
        processor.post_process_nuclei(outputs, target_sizes=[(60, 70)] * 2)
    with pytest.raises(ValueError, match="nuclei_logits"):
        processor.post_process_nuclei({"logits": torch.zeros(1)})


@pytest.mark.parametrize("num_types", [2, 0])
def test_instance_segmentation_in_the_stock_form(num_types):
    image, instance_map, types = paint(90, 75, 12)
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, image, num_types)
    [result] = processor.post_process_instance_segmentation(outputs, target_sizes=[(90, 75)])
    assert np.array_equal(result["segmentation"].numpy(), instance_map)
    assert [s["id"] for s in result["segments_info"]] == list(range(1, len(types) + 1))
    assert [s["label_id"] for s in result["segments_info"]] == (types if num_types else np.ones_like(types)).tolist()
    [strong] = processor.post_process_instance_segmentation(outputs, threshold=0.9999, target_sizes=[(90, 75)])
    assert len(strong["segments_info"]) == (types == 1).sum() == strong["segmentation"].max()
    [strict] = processor.post_process_instance_segmentation(outputs, mask_threshold=0.999, target_sizes=[(90, 75)])
    assert len(strict["segments_info"]) == (types == 1).sum()


def test_nuclei_by_a_threshold_of_ones_own_are_not_left_out_by_the_checkpoints_least_score():
    image = paint(90, 75, 12)[0]
    processor = CfSamImageProcessor(decoding={"minimum_score": 0.9, "score_weights": {"intercept": -9.0}})
    outputs = outputs_of(processor, image)
    counts = [
        len(processor.post_process_instance_segmentation(outputs, 0.0, threshold, 0.8, [(90, 75)])[0]["segments_info"])
        for threshold in (0.5, 0.4)
    ]
    assert counts == [0, 12]


def test_semantic_segmentation_gives_each_nucleus_one_type():
    image, instance_map, types = paint(90, 75, 12)
    processor = CfSamImageProcessor()
    [semantic] = processor.post_process_semantic_segmentation(outputs_of(processor, image), target_sizes=[(90, 75)])
    assert semantic.dtype == torch.int64
    assert np.array_equal(semantic.numpy(), np.r_[0, types][instance_map])


@pytest.mark.parametrize("num_types", [2, 0])
def test_transformers_own_image_segmentation_pipeline(num_types):
    image, instance_map, types = paint(90, 75, 12)
    stock = pipeline(
        "image-segmentation",
        model=PaintedModel(painted_config(num_types)),
        image_processor=CfSamImageProcessor(),
        device="cpu",
    )
    segments = stock(PIL.Image.fromarray(image), threshold=0.5)
    assert len(segments) == len(types)
    names = {1: "inflammatory", 2: "epithelial"} if num_types else dict.fromkeys((1, 2), "nucleus")
    for index, (segment, kind) in enumerate(zip(segments, types, strict=True)):
        assert segment["label"] == names[kind]
        assert 0.5 < segment["score"] <= 1
        assert np.array_equal(np.asarray(segment["mask"]) > 0, instance_map == index + 1)
    semantic = stock(PIL.Image.fromarray(image), subtask="semantic")
    assert {segment["label"] for segment in semantic} == {"background", *(names[kind] for kind in types)}


def test_scores_are_what_the_weights_make_of_them():
    image = paint(60, 60, 4)[0]
    plain = CfSamImageProcessor()
    calibrated = CfSamImageProcessor(decoding={"score_weights": {"intercept": -3.0}})
    outputs = outputs_of(plain, image)
    low, high = (p.post_process_nuclei(outputs)[0].table["score"] for p in (calibrated, plain))
    assert np.allclose(logit(low), logit(high) - 3)


@pytest.mark.parametrize("num_types", [2, 0])
def test_scores_of_the_semantic_segmentation_are_probabilities_of_each_label(num_types):
    image, instance_map, _ = paint(90, 75, 12)
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, image, num_types)
    [plain] = processor.post_process_semantic_segmentation(outputs, target_sizes=[(90, 75)])
    [scored] = processor.post_process_semantic_segmentation(outputs, [(90, 75)], return_segmentation_scores=True)
    assert torch.equal(scored.segmentation, plain)
    scores = scored.segmentation_scores
    assert scores.shape == (max(num_types, 1) + 1, 90, 75)
    assert torch.allclose(scores.sum(0), torch.ones(90, 75), atol=1e-5)
    assert np.array_equal(scores[0].numpy() < 0.5, instance_map > 0)


def test_a_mask_threshold_at_the_end_of_its_range_is_used():
    image, instance_map, _ = paint(90, 75, 12)
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, image)
    everything, nothing = (
        processor.post_process_instance_segmentation(outputs, mask_threshold=end, target_sizes=[(90, 75)])[0]
        for end in (0, 1)
    )
    assert (everything["segmentation"] > 0).all()
    assert (nothing["segmentation"].numpy() > 0).sum() <= (instance_map > 0).sum()


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), True, "half", None])
@pytest.mark.parametrize("name", ["threshold", "mask_threshold"])
def test_a_threshold_that_is_no_probability_is_named(name, value):
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, paint(32, 32, 1)[0])
    with pytest.raises(ValueError, match=f"^{name} is"):
        processor.post_process_instance_segmentation(outputs, **{name: value})


def test_selecting_nuclei_renumbers_map_and_rows():
    image, instance_map, _ = paint(90, 75, 12)
    processor = CfSamImageProcessor()
    outputs = outputs_of(processor, image)
    decoded = processor.decode_maps(MapLayout.of(outputs).split(stack_maps(outputs).numpy()[0]).crop(90, 75))
    decoded = dataclasses.replace(decoded, scores=np.arange(len(decoded.areas)) % 2 * 1.0)
    kept = decoded.select(decoded.scores >= 0.5)
    assert len(kept.areas) == len(decoded.areas) // 2
    assert np.array_equal(kept.areas, decoded.areas[1::2])
    assert np.array_equal(kept.instance_map == 1, instance_map == 2)
    assert decoded.select(decoded.scores >= 0) is decoded


def test_maps_are_stacked_in_the_documented_order():
    torch.manual_seed(0)
    outputs = ModelOutput(
        nuclei_logits=torch.randn(2, 1, 4, 5),
        hv_maps=3 * torch.randn(2, 2, 4, 5),
        boundary_logits=torch.randn(2, 1, 4, 5),
        type_logits=torch.randn(2, 4, 4, 5, dtype=torch.bfloat16),
    )
    layout = MapLayout.of(outputs)
    assert layout == MapLayout(num_types=3, has_boundary=True)
    stacked = stack_maps(outputs)
    assert stacked.shape == (2, layout.channels, 4, 5)
    maps = layout.split(stacked.numpy()[1])
    assert np.allclose(maps.nuclei, outputs["nuclei_logits"][1, 0].sigmoid())
    assert np.abs(maps.hv).max() <= 1
    assert np.allclose(maps.boundary, outputs["boundary_logits"][1, 0].sigmoid())
    assert np.allclose(maps.types.sum(axis=0), 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(8, H, W\)"):
        layout.split(np.zeros((7, 4, 5)))


def test_a_pad_size_holds_for_every_call_and_is_saved(tmp_path):
    processor = CfSamImageProcessor(pad_size={"height": 40, "width": 70})
    for height, width in ((30, 60), (40, 70)):
        values = processor(np.zeros((height, width, 3), np.uint8), return_tensors="np")["pixel_values"]
        assert values.shape == (1, 3, 48, 80)
    processor.save_pretrained(tmp_path)
    assert CfSamImageProcessor.from_pretrained(tmp_path).pad_size == {"height": 40, "width": 70}
    for wrong in ({"height": 20, "width": 70}, {"height": 40, "width": 59}):
        with pytest.raises(ValueError, match="an image of 60x30 px is larger than pad_size"):
            processor(np.zeros((30, 60, 3), np.uint8), pad_size=wrong)
    with pytest.raises(ValueError, match="pad_size, 1000000000x1000000000, is larger than any image"):
        processor(np.zeros((30, 60, 3), np.uint8), pad_size={"height": 10**9, "width": 10**9})
