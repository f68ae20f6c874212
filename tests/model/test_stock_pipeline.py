"""Why: a stranger tries transformers' own `pipeline("image-segmentation")` first; it must work unmodified."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline

from cfsam_hf import bundled_checkpoint
from cfsam_hf.model.image_processing_cfsam import CfSamImageProcessor
from cfsam_hf.model.pixel_size import resample_image

from ..demo_tile import DEMO_DECODING
from ..painted_model import PaintedModel, paint, painted_config
from ..publish_cases import tissue_image


def painted_stock(num_types: int = 2, **options):
    """The stock pipeline with a model that reads the nuclei off a painted picture."""
    model = PaintedModel(painted_config(num_types))
    return pipeline("image-segmentation", model=model, image_processor=CfSamImageProcessor(**options), device="cpu")


@pytest.fixture(scope="module")
def stock():
    pipe = pipeline("image-segmentation", model=str(bundled_checkpoint()))
    # The picture's stain is one that the checkpoint does not know.
    pipe.image_processor.decoding |= DEMO_DECODING
    return pipe


def tissue_picture() -> PIL.Image.Image:
    """At the checkpoint's pixel size: this pipeline does not resample."""
    return PIL.Image.fromarray(resample_image(tissue_image(), 512, 600))


def test_a_mask_a_label_and_a_score_for_each_nucleus(stock):
    image = tissue_picture()
    found = stock(image, threshold=0.0)
    assert len(found) > 10
    masks = np.stack([np.asarray(item["mask"]) for item in found])
    assert masks.shape[1:] == (image.height, image.width)
    assert set(np.unique(masks)) == {0, 255}
    assert ((masks > 0).sum(axis=0) <= 1).all()
    assert {item["label"] for item in found} <= set(stock.model.config.type_names.values())
    assert all(0 <= item["score"] <= 1 for item in found)
    own = pipeline("nuclei-segmentation", model=str(bundled_checkpoint()))(
        image, mpp=0.25, tile_size=512, decoding=DEMO_DECODING
    )
    assert len(found) == pytest.approx(len(own), rel=0.3)


def test_transformers_does_not_log_that_the_model_is_not_supported(monkeypatch):
    said = []
    monkeypatch.setattr("transformers.pipelines.base.logger.error", said.append)
    pipeline("image-segmentation", model=str(bundled_checkpoint()))
    assert said == []


def test_the_default_threshold_is_nine_tenths_of_the_one_score(stock, monkeypatch):
    # Scores of this tissue, which is not H&E, do not reach so far: some are raised above it.
    decoding = stock.image_processor.decoding
    raised = {**decoding["score_weights"], "intercept": decoding["score_weights"]["intercept"] + 3}
    monkeypatch.setattr(stock.image_processor, "decoding", {**decoding, "score_weights": raised})
    image = tissue_picture()
    every = stock(image, threshold=0.0)
    scores = [item["score"] for item in every if item["score"] >= 0.9]
    assert 0 < len(scores) < len(every)
    assert [item["score"] for item in stock(image)] == scores


@pytest.mark.parametrize("subtask", [None, "instance"])
def test_instances_are_the_default(subtask):
    image, instance_map, types = paint(75, 90, 8)
    found = painted_stock()(PIL.Image.fromarray(image), threshold=0.5, subtask=subtask)
    assert [item["label"] for item in found] == [{1: "inflammatory", 2: "epithelial"}[t] for t in types]
    for index, item in enumerate(found, start=1):
        assert np.array_equal(np.asarray(item["mask"]) == 255, instance_map == index)


def test_semantic_gives_a_mask_per_type():
    image, instance_map, types = paint(75, 90, 8)
    found = painted_stock()(PIL.Image.fromarray(image), subtask="semantic")
    for item in found:
        [label] = [i for i, name in painted_config().id2label.items() if name == item["label"]]
        assert np.array_equal(np.asarray(item["mask"]) == 255, np.r_[0, types][instance_map] == label)
        assert item["score"] is None
    assert len(found) == 3


def test_panoptic_is_refused_by_name():
    # There is no stuff beside the nuclei: transformers itself says that the subtask is not there.
    with pytest.raises(ValueError, match="Subtask panoptic is not supported"):
        painted_stock()(PIL.Image.fromarray(paint(75, 90, 8)[0]), subtask="panoptic")


def test_without_mpp_nothing_is_resampled_and_padding_is_right_and_bottom():
    image = paint(75, 90, 8)[0]
    stock, seen = painted_stock(), []
    stock.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    found = stock(PIL.Image.fromarray(image), threshold=0.0)
    [values] = seen
    assert values.shape == (1, 3, 80, 96)
    processor = stock.image_processor
    assert torch.equal(values[0, :, :75, :90], torch.from_numpy(processor.pixel_values(image[None])[0]))
    assert all(item["mask"].size == (90, 75) for item in found)


def test_a_list_gives_a_list_and_sizes_may_differ():
    pictures = [PIL.Image.fromarray(paint(*size, 4)[0]) for size in ((64, 64), (75, 90))]
    found = painted_stock()(pictures, threshold=0.0)
    assert [items[0]["mask"].size for items in found] == [(64, 64), (90, 75)]


def test_a_model_without_types_calls_everything_nucleus():
    found = painted_stock(0)(PIL.Image.fromarray(paint(75, 90, 8)[0]), threshold=0.0)
    assert {item["label"] for item in found} == {"nucleus"}


def test_an_image_too_large_for_one_pass_names_the_pipeline_that_can():
    with pytest.raises(ValueError, match=r"pipeline\('nuclei-segmentation'\)"):
        painted_stock()(PIL.Image.new("RGB", (1025, 1025)))


def test_the_figures_of_the_documentation_come_from_what_the_stock_pipeline_makes(load_example):
    example = load_example("studies/stock_thresholds")
    image, instance_map, _ = paint(75, 90, 8)
    stock = painted_stock()
    found, scores = example.stock_nuclei(stock, image)
    masks = stock(PIL.Image.fromarray(image), threshold=0.0)
    assert [item["score"] for item in masks] == scores.tolist()
    assert all(np.array_equal(np.asarray(m["mask"]) == 255, found == i) for i, m in enumerate(masks, start=1))
    # Of eight true nuclei one is missed and one found without being there.
    wrong = np.where(found == 8, 0, found)
    wrong[0, 89] = 8
    outcomes = example.Outcomes.of(instance_map, wrong, np.array([0.95, 0.8, 0.8, 0.8, 0.8, 0.6, 0.6, 0.92]))
    assert outcomes.row(0.0) == f"8 | {7 / 8:.3f} | {7 / 8:.3f}"
    assert outcomes.row(0.9) == f"2 | {1 / 8:.3f} | 0.500"
    assert (outcomes + outcomes).row(0.7) == f"12 | {10 / 16:.3f} | {10 / 12:.3f}"


@pytest.mark.parametrize("subtask", ["instance", "semantic"])
def test_batches_of_several_sizes_need_one_pad_size(subtask):
    pictures = [PIL.Image.fromarray(paint(*size, 4)[0]) for size in ((64, 64), (75, 90), (33, 50))]
    stock = painted_stock()
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        stock(pictures, subtask=subtask, batch_size=2)
    alone = stock(pictures, subtask=subtask, threshold=0.0)
    stock.image_processor.pad_size = {"height": 80, "width": 100}
    together = stock(pictures, subtask=subtask, threshold=0.0, batch_size=2)
    assert [len(items) for items in together] == [len(items) for items in alone]
    for items, others, picture in zip(together, alone, pictures, strict=True):
        for item, other in zip(items, others, strict=True):
            assert item["label"] == other["label"]
            assert item["mask"].size == picture.size
            assert np.array_equal(np.asarray(item["mask"]), np.asarray(other["mask"]))
    stock.image_processor.pad_size = {"height": 64, "width": 100}
    with pytest.raises(ValueError, match="an image of 90x75 px is larger than pad_size, 100x64"):
        stock(pictures, batch_size=2)
