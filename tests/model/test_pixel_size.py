"""Why: sizes of nuclei depend on the pixel size, so print resolutions must not be taken for one, and nuclei must keep
their places, shapes and identities between the model's pixels and the image's.
"""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from cfsam_hf.model.pixel_size import (
    MICROMETRES,
    PixelSize,
    check_mpp,
    describe,
    disagreement,
    read_pixel_size,
    resample_image,
    resample_nuclei,
    resampled_size,
)
from cfsam_hf.model.result import DecodedNuclei

from ..picture_cases import GREY, PICTURE, huge_png

APERIO = "Aperio Image Library v12.0.15\r\n80x64 (64x64) JPEG Q=70|AppMag = 40|MPP = {}|Left = 25.69"


def tiff(path: Path, **options) -> Path:
    tifffile.imwrite(path, PICTURE, photometric="rgb", **options)
    return path


def ome(path: Path, unit: str = "µm", x: float = 0.25, y: float | None = 0.25) -> Path:
    sizes = {"PhysicalSizeX": x, "PhysicalSizeXUnit": unit}
    if y is not None:
        sizes |= {"PhysicalSizeY": y, "PhysicalSizeYUnit": unit}
    return tiff(path, ome=True, metadata={"axes": "YXS", **sizes})


def resolution(path: Path, x: float, y: float | None = None, unit: str = "CENTIMETER") -> Path:
    return tiff(path, resolution=(x, x if y is None else y), resolutionunit=unit, metadata=None)


def imagej(path: Path, unit: str, per_unit: float) -> Path:
    tifffile.imwrite(path, GREY, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})
    return path


@pytest.mark.parametrize("text", ["0.2520", " .2520 ", "0.252"])
def test_aperio(text, tmp_path):
    path = tiff(tmp_path / "a.svs", description=APERIO.format(text), metadata=None)
    assert read_pixel_size(path) == PixelSize(0.252, 0.252, "Aperio MPP")


@pytest.mark.parametrize(
    ("unit", "value"),
    [("µm", 0.25), ("μm", 0.25), ("nm", 250), ("mm", 0.00025), ("cm", 2.5e-5), ("m", 2.5e-7), ("Å", 2500)],
)
def test_ome_in_every_unit(unit, value, tmp_path):
    found = read_pixel_size(ome(tmp_path / "a.ome.tif", unit, value, value))
    assert found.source == "OME PhysicalSizeX"
    assert (found.x, found.y) == (pytest.approx(0.25), pytest.approx(0.25))


def test_ome_without_a_height_or_with_several_images(tmp_path):
    assert read_pixel_size(ome(tmp_path / "a.tif", x=0.5, y=None)) == PixelSize(0.5, 0.5, "OME PhysicalSizeX")
    image = '<Image ID="Image:{}"><Pixels SizeX="{}" SizeY="{}" PhysicalSizeX="{}"/></Image>'
    text = "<OME>" + image.format(0, 20, 20, 8) + image.format(1, 80, 64, 0.5) + "</OME>"
    path = tiff(tmp_path / "b.tif", description=text, metadata=None)
    assert read_pixel_size(path) == PixelSize(0.5, 0.5, "OME PhysicalSizeX")


@pytest.mark.parametrize(
    ("unit", "per_unit"),
    [("um", 4), ("micron", 4), ("microns", 4), ("\\u00B5m", 4), ("nm", 0.004), ("mm", 4000), ("cm", 40000)],
)
def test_imagej_in_every_unit(unit, per_unit, tmp_path):
    found = read_pixel_size(imagej(tmp_path / "a.tif", unit, per_unit))
    assert found.source == "ImageJ"
    assert found.mpp == pytest.approx(0.25)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_resolution_tags_of_every_kind_of_tiff(byteorder, bigtiff, tmp_path):
    options = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "metadata": None}
    path = tiff(tmp_path / "a.tif", byteorder=byteorder, bigtiff=bigtiff, **options)
    assert read_pixel_size(path) == PixelSize(0.25, 0.25, "TIFF resolution")
    assert read_pixel_size(resolution(path, 101_600, unit="INCH")).mpp == pytest.approx(0.25)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
def test_the_headers_of_other_formats(ending, tmp_path):
    density = 50_800  # a JPEG holds at most 65,535
    PIL.Image.fromarray(PICTURE).save(tmp_path / f"a.{ending}", dpi=(density, density))
    assert read_pixel_size(tmp_path / f"a.{ending}").mpp == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("dpi", [1, 72, 96, 150, 300, 600, 2400, 4800])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp"])
def test_print_resolutions_are_no_pixel_sizes(dpi, ending, tmp_path):
    PIL.Image.fromarray(PICTURE).save(tmp_path / f"a.{ending}", dpi=(dpi, dpi))
    assert read_pixel_size(tmp_path / f"a.{ending}") is None


@pytest.mark.parametrize(
    "write",
    [
        lambda path: tiff(path, metadata=None),
        lambda path: resolution(path, 40000, unit="NONE"),
        lambda path: tiff(path, description=APERIO.format("0"), metadata=None),
        lambda path: tiff(path, description=APERIO.format("250"), metadata=None),
        lambda path: tiff(path, description="MPP = 0.25, says somebody else", metadata=None),
        lambda path: ome(path, unit="pixel", x=0.25),
        lambda path: ome(path, unit="mm", x=0.25),
        lambda path: ome(path, x=0),
        lambda path: imagej(path, "inch", 72),
        lambda path: imagej(path, "pixel", 4),
        lambda path: tiff(path, description="<OME><Pixels PhysicalSizeX='broken", metadata=None),
        lambda path: tiff(path, description='<OME><Pixels PhysicalSizeX="big"/></OME>', metadata=None),
        lambda path: path.write_bytes(b"II*\0 and nothing more"),
        lambda path: path.write_text("no picture"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_files_that_state_none(write, tmp_path):
    write(tmp_path / "a.tif")
    assert read_pixel_size(tmp_path / "a.tif") is None


def test_a_huge_header_costs_nothing_and_a_missing_file_is_an_error(tmp_path):
    huge_png(tmp_path / "a.png")
    assert read_pixel_size(tmp_path / "a.png") is None
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        read_pixel_size(tmp_path / "b.png")


def test_smaller_copies_have_larger_pixels(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        options = {"photometric": "rgb", "metadata": None}
        writer.write(PICTURE, description=APERIO.format(0.25), **options)
        writer.write(PICTURE[::2, ::2], description="Aperio Image Library\r\n80x64 -> 40x32", subfiletype=1, **options)
    assert read_pixel_size(tmp_path / "a.tif").x == 0.25
    assert read_pixel_size(tmp_path / "a.tif", page=2).x == 0.5


def test_an_open_file_is_left_at_its_beginning(tmp_path):
    path = resolution(tmp_path / "a.tif", 40000)
    file = io.BytesIO(path.read_bytes())
    file.seek(7)
    assert read_pixel_size(file).mpp == 0.25
    assert file.tell() == 0
    assert not file.closed


def test_square_pixels_and_others(tmp_path):
    nearly = read_pixel_size(resolution(tmp_path / "a.tif", 40000, 40200))
    assert nearly.is_square
    assert nearly.mpp**2 == pytest.approx(nearly.x * nearly.y)
    oblong = read_pixel_size(resolution(tmp_path / "b.tif", 40000, 20000))
    assert not oblong.is_square
    assert describe(oblong) == "0.25 x 0.5 micrometres per pixel (TIFF resolution)"
    with pytest.raises(ValueError, match=r"0\.25 x 0\.5 micrometres \(TIFF resolution\) are not square; resample"):
        oblong.mpp  # noqa: B018


@pytest.mark.parametrize(("mpp", "warns"), [(0.25, False), (0.26, False), (0.49, False), (0.5, True), (0.125, True)])
def test_a_factor_of_two_is_suspicious(mpp, warns):
    sentence = disagreement(mpp, PixelSize(0.25, 0.25, "Aperio MPP"))
    assert (sentence is not None) == warns
    if warns:
        assert "0.25 micrometres per pixel (Aperio MPP)" in sentence
        assert f"mpp={mpp:g}" in sentence
    assert disagreement(mpp, None) is None


def test_every_unit_is_found_by_its_lower_case_name():
    assert all(unit == unit.lower() and np.isfinite(size) for unit, size in MICROMETRES.items())


def decoded_of(instance_map):
    """`DecodedNuclei` of a label map with ids 1..N, measured literally."""
    count = int(instance_map.max())
    rows, columns = zip(*(np.nonzero(instance_map == index) for index in range(1, count + 1)), strict=True)
    return DecodedNuclei(
        instance_map=instance_map.astype(np.int32),
        type_ids=np.arange(count) % 3 + 1,
        type_probabilities=np.linspace(0.5, 1, count),
        scores=np.linspace(0, 1, count),
        boxes=np.array([[c.min(), r.min(), c.max() + 1, r.max() + 1] for r, c in zip(rows, columns, strict=True)]),
        centroids=np.array([[c.mean() + 0.5, r.mean() + 0.5] for r, c in zip(rows, columns, strict=True)]),
        areas=np.array([len(r) for r in rows]),
        measures=np.arange(5.0 * count).reshape(count, 5),
        probabilities=np.linspace(0, 1, 3 * count, dtype=np.float32).reshape(count, 3),
    )


def discs(height, width, places):
    y, x = np.mgrid[:height, :width]
    instance_map = np.zeros((height, width), np.int32)
    for index, (row, column, radius) in enumerate(places):
        instance_map[(y - row) ** 2 + (x - column) ** 2 < radius**2] = index + 1
    return instance_map


def check_consistent(decoded):
    literal = decoded_of(decoded.instance_map)
    assert np.array_equal(decoded.boxes, literal.boxes)
    assert np.array_equal(decoded.areas, literal.areas)
    assert np.allclose(decoded.centroids, literal.centroids)
    parts = label(decoded.instance_map, connectivity=1, background=0)
    assert parts.max() == len(decoded.areas)


PLACES = [(20, 20, 10), (20, 39, 10), (60, 50, 15), (3, 90, 8), (95, 96, 6)]


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.8, 1.26, 2.0, 3.7])
def test_nuclei_keep_place_shape_and_rows(scale):
    decoded = decoded_of(discs(100, 100, PLACES))
    size = round(100 * scale)
    result = resample_nuclei(decoded, size, size)
    check_consistent(result)
    assert len(result.areas) == len(PLACES)
    assert np.array_equal(result.type_ids, decoded.type_ids)
    assert np.array_equal(result.scores, decoded.scores)
    assert np.array_equal(result.measures, decoded.measures)
    assert np.array_equal(result.probabilities, decoded.probabilities)
    assert np.abs(result.centroids / (size / 100) - decoded.centroids).max() < 0.6 / min(scale, 1)
    assert np.abs(np.sqrt(result.areas) / (size / 100) / np.sqrt(decoded.areas) - 1).max() < (
        0.04 if scale > 0.45 else 0.12
    )


def test_grown_outlines_are_smooth_and_touching_nuclei_stay_touching():
    decoded = decoded_of(discs(100, 100, [(50, 40, 12), (50, 61, 12)]))
    result = resample_nuclei(decoded, 400, 400)
    truth = discs(400, 400, [(201.5, 161.5, 47), (201.5, 245.5, 47)]) == 2
    smooth, blocks = result.instance_map == 2, np.kron(decoded.instance_map, np.ones((4, 4))) == 2
    overlap, block_overlap = (((m & truth).sum() / (m | truth).sum()) for m in (smooth, blocks))
    assert overlap > 0.96
    assert overlap > block_overlap + 0.005
    between = result.instance_map[200, 150:260]
    assert (between > 0).all()


def test_the_same_size_changes_nothing():
    decoded = decoded_of(discs(100, 100, PLACES))
    assert resample_nuclei(decoded, 100, 100) is decoded


def test_there_and_back_keeps_the_nuclei():
    decoded = decoded_of(discs(100, 100, PLACES))
    back = resample_nuclei(resample_nuclei(decoded, 250, 250), 100, 100)
    assert (back.instance_map != decoded.instance_map).mean() < 0.005


def test_a_nucleus_that_would_vanish_keeps_a_pixel():
    decoded = decoded_of(discs(80, 80, [(10, 10, 2), (40, 40, 3), (41, 60, 2)]))
    result = resample_nuclei(decoded, 8, 8)
    check_consistent(result)
    assert len(result.areas) == 3
    assert result.areas.min() >= 1


def test_only_nuclei_without_any_pixel_of_their_own_are_dropped():
    instance_map = np.zeros((40, 40), np.int32)
    instance_map[::4, ::4] = np.arange(1, 101).reshape(10, 10)
    decoded = decoded_of(instance_map)
    result = resample_nuclei(decoded, 2, 2)
    assert len(result.areas) == 4
    kept = np.flatnonzero(np.isin(decoded.scores, result.scores))
    assert np.array_equal(result.measures, decoded.measures[kept])
    check_consistent(result)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 90), st.integers(5, 90))
def test_any_label_map_stays_one_part_per_nucleus(seed, height, width):
    rng = np.random.default_rng(seed)
    blobs = label(rng.random((40, 30)) < 0.45, connectivity=1)
    if blobs.max() == 0:
        return
    result = resample_nuclei(decoded_of(blobs), height, width)
    if len(result.areas):
        check_consistent(result)


def test_no_nuclei():
    empty = DecodedNuclei(
        np.zeros((10, 10), np.int32),
        np.zeros(0, np.int64),
        np.zeros(0),
        np.zeros(0),
        np.zeros((0, 4), np.int64),
        np.zeros((0, 2)),
        np.zeros(0, np.int64),
    )
    result = resample_nuclei(empty, 20, 30)
    assert result.instance_map.shape == (20, 30)
    assert result.boxes.shape == (0, 4)
    assert result.centroids.shape == (0, 2)


@pytest.mark.parametrize("mpp", [0, -0.25, float("nan"), float("inf"), 11, 1e-9, 5e9])
def test_absurd_mpp(mpp):
    with pytest.raises(ValueError, match=r"mpp must be micrometres per pixel from 0.01 to 10.*; got [^ ]*$"):
        check_mpp(mpp)


@pytest.mark.parametrize(
    ("mpp", "guess"),
    [
        (250, "If 250 is in nanometres, give 0.25"),
        (499, "If 499 is in nanometres, give 0.499"),
        (0.0005, "If 0.0005 is in millimetres, give 0.5"),
        (2.5e-5, "If 2.5e-05 is in centimetres, give 0.25"),
        (2.5e-7, "If 2.5e-07 is in metres, give 0.25"),
        (40_000, "If 40000 is the number of pixels per centimetre, give 0.25"),
        (20, "If 20x is the objective, the pixel size is probably 0.5"),
        (63, "If 63x is the objective, the pixel size is probably 0.159"),
    ],
)
def test_the_unit_of_an_impossible_mpp_is_guessed(mpp, guess):
    with pytest.raises(ValueError, match=guess):
        check_mpp(mpp)


@pytest.mark.parametrize("mpp", [0.01, 0.25, 1, 10])
def test_possible_mpp(mpp):
    assert check_mpp(mpp) == mpp


@pytest.mark.parametrize("mpp", ["0.25", True, [0.25]])
def test_mpp_must_be_a_number(mpp):
    with pytest.raises(TypeError, match="mpp"):
        check_mpp(mpp)


def test_resampled_sizes():
    assert resampled_size(100, 200, None, 0.25) == (100, 200)
    assert resampled_size(100, 200, 0.2528, 0.25) == (100, 200)
    assert resampled_size(100, 200, 0.246, 0.25) == (100, 200)
    assert resampled_size(100, 200, 0.5, 0.25) == (200, 400)
    assert resampled_size(100, 200, 0.1, 0.25) == (40, 80)
    assert resampled_size(1, 1, 0.01, 0.25) == (1, 1)


def test_images_shrink_by_area_means():
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2] = 200
    assert (resample_image(image, 4, 4) == 100).all()
    assert resample_image(image, 16, 16).shape == (16, 16, 3)
    assert resample_image(image, 8, 8) is image
