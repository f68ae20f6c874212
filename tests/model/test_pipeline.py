"""Why: the pipeline must find the same nuclei for any image size, tiling, batch size, form and resolution."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import cfsam_hf
from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor, CfSamProcessor
from cfsam_hf.model.pictures import TooManyPixelsError
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.model.result import TABLE_COLUMNS, NucleiResult

from ..painted_model import PaintedModel, paint, painted_config, painted_pipeline


@pytest.fixture
def pipe():
    return painted_pipeline()


def test_finds_and_types_the_painted_nuclei(pipe):
    image, instance_map, types = paint(300, 410)
    result = pipe(image, mpp=0.25)
    assert isinstance(result, NucleiResult)
    assert np.array_equal(result.instance_map, instance_map)
    assert result.instance_map.dtype == np.int32
    assert result.table["type"].tolist() == types.tolist()
    assert set(result.table["type_name"]) == {"inflammatory", "epithelial"}
    assert (result.table["type_probability"] > 0.99).all()
    assert (result.table["score"] > 0.9).all()
    assert result.table["area_px"].tolist() == np.bincount(instance_map.ravel())[1:].tolist()
    assert np.allclose(result.table["area_um2"], result.table["area_px"] * 0.0625)
    assert result.image_size == (410, 300)
    assert result.checkpoint == "painted"
    assert result.type_names == {1: "inflammatory", 2: "epithelial"}
    assert all(len(color) == 3 for color in result.type_colors.values())
    assert len(result.contours) == len(result) == len(types)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (3, 5000), (17, 200), (64, 64), (65, 63), (200, 1)])
def test_any_size(pipe, height, width):
    result = pipe(np.full((height, width, 3), (255, 128, 128), np.uint8), mpp=0.25)
    assert result.instance_map.shape == (height, width)
    assert len(result) == (height * width >= 10)
    assert {shape[2:] for shape in pipe.model.tiles} == {(64, 64)}


def test_no_nuclei_give_an_empty_table_with_all_dtypes(pipe):
    for value in (0, 255):
        result = pipe(np.full((100, 90, 3), (0, value, value), np.uint8), mpp=0.25)
        assert len(result) == 0
        assert {name: str(dtype) for name, dtype in result.table.dtypes.items()} == {
            name: str(dtype) for name, dtype in pipe(paint(60, 60, 3)[0], mpp=0.25).table.dtypes.items()
        }
        assert list(result.table.columns) == list(TABLE_COLUMNS)
        assert result.contours == []


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(batch_size):
    images = [paint(150, 130, seed=seed)[0] for seed in range(3)]
    results = painted_pipeline(batch_size=batch_size)(images, mpp=0.25)
    for image, result in zip(images, results, strict=True):
        alone = painted_pipeline()(image, mpp=0.25, batch_size=2)
        assert np.array_equal(alone.instance_map, result.instance_map)
        assert alone.table.equals(result.table)


def test_full_batches_on_an_accelerator_are_filled_up(pipe):
    # The pipeline sees a device other than the CPU while it makes batches, and the real one when it runs them.
    image = paint(150, 130)[0]
    expected = pipe(image, mpp=0.25)
    other = painted_pipeline(batch_size=4)
    real = other._tile_maps
    sizes = []

    def record(tiles, *options):
        sizes.append(len(tiles))
        other.device = torch.device("cpu")
        result = real(tiles, *options)
        other.device = SimpleNamespace(type="accelerator")
        return result

    other._tile_maps = record
    other.device = SimpleNamespace(type="accelerator")
    assert np.array_equal(other(image, mpp=0.25).instance_map, expected.instance_map)
    assert set(sizes) == {4}
    other.model.tiles.clear()
    other(image, mpp=0.25, views=4)
    assert {shape[0] for shape in other.model.tiles} == {4}


@pytest.mark.parametrize(("tile_size", "tile_overlap"), [(64, 0), (96, 48), (256, 64), (32, 24)])
def test_the_tiles_change_nothing(pipe, tile_size, tile_overlap):
    image, instance_map, _ = paint(190, 220)
    result = pipe(image, mpp=0.25, tile_size=tile_size, tile_overlap=tile_overlap)
    assert np.array_equal(result.instance_map, instance_map)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_fitted_tiles_of_images_of_many_sizes_change_nothing(batch_size):
    processor = CfSamImageProcessor(tile_size=192, tile_overlap=48, smallest_tile_size=64)
    fitted = NucleiSegmentationPipeline(PaintedModel(painted_config(2)), image_processor=processor, device="cpu")
    images, expected, _ = zip(*(paint(h, w) for h, w in [(190, 220), (40, 30), (100, 75), (100, 80)]), strict=True)
    results = fitted(list(images), mpp=0.25, batch_size=batch_size)
    for result, instance_map in zip(results, expected, strict=True):
        assert np.array_equal(result.instance_map, instance_map)
    # In steps of four patches: 190 x 220 px take two tiles of 192, 40 px one of 64, 100 px one of 128.
    assert [shape[2] for shape in fitted.model.tiles] == [192, 192, 64, 128, 128]
    fitted.model.tiles.clear()
    fitted(images[1], mpp=0.25, tile_size=96)
    assert [shape[2:] for shape in fitted.model.tiles] == [(96, 96)]
    assert np.array_equal(fitted(images[0], mpp=0.25, views=2).instance_map, expected[0])
    assert fitted.blended_maps(images[3], mpp=0.25).nuclei.shape == (100, 80)


def test_a_given_overlap_is_kept_in_fitted_tiles():
    processor = CfSamImageProcessor(tile_size=96, tile_overlap=16, smallest_tile_size=32)
    fitted = NucleiSegmentationPipeline(PaintedModel(painted_config(2)), image_processor=processor, device="cpu")
    assert fitted.tiling_for(300, 300, tile_overlap=70)[1] == 70
    # A single tile overlaps none.
    assert fitted.tiling_for(20, 30, tile_overlap=70) == (64, 63, 1)


def test_inputs_of_every_kind_agree(pipe, tmp_path):
    image, instance_map, _ = paint(80, 90)
    PIL.Image.fromarray(image).save(tmp_path / "a tile.png")
    inputs = [
        image,
        image.transpose(2, 0, 1),
        PIL.Image.fromarray(image),
        torch.from_numpy(image),
        tmp_path / "a tile.png",
        str(tmp_path / "a tile.png"),
    ]
    results = pipe(inputs, mpp=0.25)
    assert isinstance(results, list)
    assert all(np.array_equal(result.instance_map, instance_map) for result in results)
    assert [result.image_name for result in results] == [None] * 4 + ["a tile.png"] * 2
    assert pipe([], mpp=0.25) == []
    assert [len(r) for r in pipe((x for x in inputs[:2]), mpp=0.25)] == [instance_map.max()] * 2


def test_blended_maps_are_those_that_are_decoded(pipe):
    image, instance_map, _ = paint(190, 220)
    maps = pipe.blended_maps(image, mpp=0.25)
    assert maps.nuclei.shape == (190, 220)
    assert maps.types.shape == (3, 190, 220)
    assert maps.boundary is None
    assert np.array_equal(pipe.image_processor.decode_maps(maps).instance_map, instance_map)
    with pytest.raises(FileNotFoundError):
        pipe.blended_maps("missing.png")


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.5, 2.0])
def test_another_mpp_gives_the_nuclei_in_input_pixels(pipe, scale):
    # The same field photographed at another resolution: sizes in micrometres must agree.
    reference = pipe(paint(200, 240)[0], mpp=0.25)
    image, instance_map, types = paint(200, 240, scale=scale)
    result = pipe(image, mpp=0.25 / scale)
    assert result.instance_map.shape == image.shape[:2]
    assert result.mpp == 0.25 / scale
    assert len(result) == len(reference)
    matched = [np.bincount(instance_map[result.instance_map == index]).argmax() for index in result.table["id"]]
    assert sorted(matched) == list(range(1, len(types) + 1))
    for index, truth in zip(result.table["id"], matched, strict=True):
        mask, true_mask = result.instance_map == index, instance_map == truth
        assert (mask & true_mask).sum() / (mask | true_mask).sum() > 0.75
    assert (result.table["type"].to_numpy() == types[np.array(matched) - 1]).mean() > 0.9
    assert abs(result.table["area_um2"].sum() / reference.table["area_um2"].sum() - 1) < 0.08


def test_an_mpp_within_two_percent_is_not_resampled(pipe):
    image, instance_map, _ = paint(100, 100)
    result = pipe(image, mpp=0.2528)
    assert np.array_equal(result.instance_map, instance_map)
    assert result.table["area_um2"][0] == pytest.approx(result.table["area_px"][0] * 0.2528**2)


def test_unknown_mpp_warns_once_and_leaves_areas_open(pipe):
    images = [paint(70, 70, seed=seed)[0] for seed in range(3)]
    with pytest.warns(UserWarning, match=r"mpp is not given .* the model's 0.25") as caught:
        results = pipe(images)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert all(result.mpp is None and result.table["area_um2"].isna().all() for result in results)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(images, mpp=0.25)


def test_each_image_may_have_its_own_mpp(pipe):
    images = [paint(100, 100)[0], paint(100, 100, scale=2)[0]]
    first, second = pipe(images, mpp=[0.25, 0.125])
    assert len(first) == len(second)
    assert (first.mpp, second.mpp) == (0.25, 0.125)
    with pytest.raises(ValueError, match="1 values for 2 images"):
        pipe(images, mpp=[0.25])
    with pytest.warns(UserWarning, match="mpp is not given"):
        assert [result.mpp for result in pipe(images, mpp=[None, 0.125])] == [None, 0.125]


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), 20])
def test_absurd_mpp(pipe, mpp):
    with pytest.raises(ValueError, match="mpp"):
        pipe(paint(64, 64, 2)[0], mpp=mpp)


def test_resampling_is_bounded_too(pipe):
    with pytest.raises(ValueError, match=r"4000x4000 px.*max_pixels=1000000"):
        pipe(np.zeros((100, 100, 3), np.uint8), mpp=10, max_pixels=1_000_000)


@pytest.mark.parametrize(("limit", "mpp"), [(10_000, 0.25), (100_000, 1.0)])
def test_a_slide_that_is_too_large_is_sent_to_the_function_for_slides(pipe, limit, mpp, tmp_path):
    PIL.Image.fromarray(paint(150, 200, 5)[0]).save(tmp_path / "slide.tif")
    with pytest.raises(TooManyPixelsError, match=r"slide\.tif.*more than .*max_pixels.*cfsam_hf\.segment_slide"):
        pipe(tmp_path / "slide.tif", mpp=mpp, max_pixels=limit)
    assert cfsam_hf.segment_slide.__name__ == "segment_slide"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"tile_size": 50}, ValueError, "multiple of the patch size 16"),
        ({"tile_size": 64, "tile_overlap": 64}, ValueError, "tile_overlap"),
        ({"autocast_dtype": "int8"}, ValueError, "autocast_dtype"),
        ({"views": 3}, ValueError, "views must be 1, 2, 4 or 8, got 3"),
        ({"views": "4"}, ValueError, "views must be 1, 2, 4 or 8, got '4'"),
        ({"max_pixels": 10}, ValueError, "max_pixels"),
        ({"treshold": 0.5}, TypeError, "treshold"),
    ],
)
def test_bad_options_are_named(pipe, options, error, message):
    with pytest.raises(error, match=message):
        pipe(paint(64, 64, 2)[0], mpp=0.25, **options)


@pytest.mark.parametrize("image", [None, 7, ["missing.png"], [None]])
def test_what_is_no_picture(pipe, image):
    with pytest.raises((TypeError, FileNotFoundError), match=r"NoneType|int|missing\.png"):
        pipe(image, mpp=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2}, "threshold is 2"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "a"}, "threshold is 'a'"),
        ({"decoding": 3}, "decoding is 3"),
        ({"decoding": {"minimum_score": None}}, "minimum_score is None"),
    ],
)
def test_options_without_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        painted_pipeline()(paint(64, 64)[0], mpp=0.25, **options)


def test_threshold_leaves_weak_nuclei_out_and_renumbers():
    image, _, types = paint(200, 200)
    pipe = painted_pipeline()
    scores = pipe(image, mpp=0.25).table["score"]
    strong = pipe(image, mpp=0.25, threshold=0.9999)
    assert 0 < len(strong) < len(scores)
    assert strong.table["id"].tolist() == list(range(1, len(strong) + 1))
    assert set(np.unique(strong.instance_map)) == set(range(len(strong) + 1))
    assert set(strong.table["type"]) == {1}
    assert len(strong) == (types == 1).sum()


def test_types_of_grey_images_are_warned_about():
    class GreyModel(PaintedModel):
        def forward(self, pixel_values):
            outputs = super().forward(pixel_values)
            outputs.hv_maps = torch.zeros_like(outputs.hv_maps)
            return outputs

    grey = paint(100, 120)[0][:, :, :1].repeat(3, axis=2)
    for num_types in (2, 0):
        pipe = NucleiSegmentationPipeline(
            GreyModel(painted_config(num_types)),
            image_processor=CfSamImageProcessor(tile_size=64, tile_overlap=16),
            device="cpu",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pipe(np.full_like(grey, 0), mpp=0.25)  # no nuclei, nothing to type
            if not num_types:
                assert len(pipe(grey, mpp=0.25)) > 0
        if num_types:
            with pytest.warns(UserWarning, match="types of its nuclei mean nothing"):
                assert len(pipe(grey, mpp=0.25)) > 0


def test_without_types():
    image, instance_map, _ = paint(100, 120)
    result = painted_pipeline(num_types=0)(image, mpp=0.25)
    assert np.array_equal(result.instance_map, instance_map)
    assert set(result.table["type"]) == {0}
    assert set(result.table["type_name"]) == {"nucleus"}
    assert result.table["type_probability"].isna().all()
    assert result.type_names == {}
    assert list(result.type_colors) == [0]


def test_autocast_and_half_precision_run(pipe):
    image, instance_map, _ = paint(100, 100)
    assert pipe(image, mpp=0.25, autocast_dtype="bfloat16").instance_map.max() == instance_map.max()
    half = painted_pipeline()
    half.model.to(torch.bfloat16)
    assert half(image, mpp=0.25).instance_map.max() == instance_map.max()


def test_the_processor_is_found_beside_the_model_or_made_for_it(tmp_path):
    model = PaintedModel(painted_config())
    assert NucleiSegmentationPipeline(model, device="cpu").image_processor.mpp == 0.25
    assert NucleiSegmentationPipeline(PaintedModel(painted_config(mpp=0.5)), device="cpu").image_processor.mpp == 0.5
    model.save_pretrained(tmp_path)
    CfSamImageProcessor(tile_size=96, tile_overlap=16).save_pretrained(tmp_path)
    loaded = PaintedModel.from_pretrained(tmp_path)
    assert NucleiSegmentationPipeline(loaded, device="cpu").image_processor.tile_size == 96


def test_transformers_builds_it_from_a_model_a_folder_or_nothing(tmp_path, monkeypatch):
    image, instance_map, _ = paint(100, 100)
    pipe = pipeline("nuclei-segmentation", model=PaintedModel(painted_config()), device="cpu")
    assert isinstance(pipe, NucleiSegmentationPipeline)
    assert np.array_equal(pipe(image, mpp=0.25).instance_map, instance_map)

    torch.manual_seed(0)
    model = CfSamForNucleiSegmentation(painted_config())
    model.save_pretrained(tmp_path)
    CfSamProcessor(CfSamImageProcessor(tile_size=64, tile_overlap=16)).save_pretrained(tmp_path)
    expected = NucleiSegmentationPipeline(
        model, image_processor=CfSamImageProcessor(tile_size=64, tile_overlap=16), device="cpu"
    )(image, mpp=0.25)
    task = PIPELINE_REGISTRY.supported_tasks["nuclei-segmentation"]
    monkeypatch.setitem(task, "default", {"model": (str(tmp_path), "main")})
    for options in ({"model": str(tmp_path)}, {"model": tmp_path}, {}):
        pipe = pipeline("nuclei-segmentation", device="cpu", **options)
        assert pipe.image_processor.tile_size == 64
        assert np.array_equal(pipe(image, mpp=0.25).instance_map, expected.instance_map)


def test_a_saved_pipeline_names_no_folder_of_this_machine(tmp_path):
    torch.manual_seed(0)
    pipe = NucleiSegmentationPipeline(
        CfSamForNucleiSegmentation(painted_config()), image_processor=CfSamImageProcessor(), device="cpu"
    )
    pipe.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
    assert saved["nuclei-segmentation"]["impl"] == "pipeline_cfsam.NucleiSegmentationPipeline"
    assert "default" not in saved["nuclei-segmentation"]
    assert (tmp_path / "tiling.py").is_file()


def test_one_image_at_a_time_through_the_base_class(pipe):
    image, instance_map, _ = paint(100, 100)
    result = pipe.run_single(image, {"mpp": 0.25}, {}, {})
    assert np.array_equal(result.instance_map, instance_map)


def test_results_carry_what_is_needed_to_repeat_them(pipe):
    result = pipe(paint(64, 64, 2)[0], mpp=0.25)
    assert result.version
    assert "nuclei" in repr(result)
    json.dumps({"checkpoint": result.checkpoint, "version": result.version, "mpp": result.mpp})
