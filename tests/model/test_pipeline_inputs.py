"""Why: pictures and pixel sizes come in lists of many libraries and from files; all must give the same nuclei."""

import base64
import io
import warnings

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pyarrow
import pytest
import tifffile
import torch
from transformers.pipelines.pt_utils import KeyDataset

from ..painted_model import paint, painted_pipeline

IMAGES = [paint(80, 90, seed=seed)[0] for seed in range(3)]
COUNTS = [int(paint(80, 90, seed=seed)[1].max()) for seed in range(3)]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def paths(tmp_path) -> list[str]:
    for index, image in enumerate(IMAGES):
        (tmp_path / f"{index}.png").write_bytes(png(image))
    return [str(tmp_path / f"{index}.png") for index in range(3)]


@pytest.fixture
def pipe():
    return painted_pipeline()


class TorchData(torch.utils.data.Dataset):
    """A torch data set as most are written: no `__iter__`, and an index past the end is no IndexError."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int):
        return IMAGES[index % len(IMAGES)]


class TorchStream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(IMAGES)


def column(paths: list[str], name: str = "image", decode: bool = True):
    rows = {"image": paths, "mpp": [0.25] * len(paths)}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=decode))[name]


LISTS = {
    "list": list,
    "tuple": tuple,
    "Series": pd.Series,
    "array of names": np.array,
    "array of objects": lambda paths: np.array(paths, dtype=object),
    "column of datasets": column,
    "array (B, H, W, C)": lambda paths: np.stack(IMAGES),
    "tensor (B, C, H, W)": lambda paths: torch.from_numpy(np.stack(IMAGES)).permute(0, 3, 1, 2),
    "bytes": lambda paths: [png(image) for image in IMAGES],
    "base64": lambda paths: [base64.b64encode(png(image)).decode() for image in IMAGES],
    "data URLs": lambda paths: [f"data:image/png;base64,{base64.b64encode(png(image)).decode()}" for image in IMAGES],
    "Arrow array": pyarrow.array,
    "images that datasets did not decode": lambda paths: column(paths, decode=False),
    "open files": lambda paths: [io.BytesIO(png(image)) for image in IMAGES],
    "keys of a dict": lambda paths: dict.fromkeys(paths).keys(),
}
STREAMS = {
    "generator": lambda paths: (path for path in paths),
    "torch data set": lambda paths: TorchData(),
    "torch stream": lambda paths: TorchStream(),
    "KeyDataset": lambda paths: KeyDataset(datasets.Dataset.from_dict({"image": paths}), "image"),
}
SIZES = {
    "number": lambda paths: 0.25,
    "number of numpy": lambda paths: np.float32(0.25),
    "array without dimensions": lambda paths: np.array(0.25),
    "tensor without dimensions": lambda paths: torch.tensor(0.25),
    "list": lambda paths: [0.25] * 3,
    "array": lambda paths: np.full(3, 0.25),
    "tensor": lambda paths: torch.full((3,), 0.25),
    "Series": lambda paths: pd.Series([0.25] * 3),
    "column of datasets": lambda paths: column(paths, "mpp"),
    "Arrow array": lambda paths: pyarrow.chunked_array([[0.25] * 3]),
    "generator": lambda paths: (0.25 for _ in range(3)),
}


@pytest.mark.parametrize("name", LISTS)
def test_what_is_like_a_list_gives_a_list(name, paths, pipe):
    results = pipe(LISTS[name](paths), mpp=0.25)
    assert isinstance(results, list)
    assert [len(result) for result in results] == COUNTS


@pytest.mark.parametrize("name", STREAMS)
def test_iterators_and_torch_data_sets_give_iterators(name, paths, pipe):
    results = pipe(STREAMS[name](paths), mpp=[0.25] * 3)
    assert iter(results) is results
    assert [len(result) for result in results] == COUNTS


@pytest.mark.parametrize("name", SIZES)
def test_pixel_sizes_of_every_kind(name, paths, pipe):
    results = pipe(paths, mpp=SIZES[name](paths))
    assert [len(result) for result in results] == COUNTS
    assert {(type(result.mpp), result.mpp, result.mpp_source) for result in results} == {(float, 0.25, "given")}


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_the_bytes_of_one_picture_are_one_picture(form, pipe):
    assert len(pipe(form(png(IMAGES[0])), mpp=0.25)) == COUNTS[0]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"image": "a.png"}, "cannot choose the images of a dict: pass the column"),
        (pd.DataFrame({"image": ["a.png"]}), "cannot choose the images of a DataFrame: pass the column"),
        (None, "NoneType"),
        (7, "int"),
        ([{"image": "a.png"}], "of a row of a data set pass its image column"),
    ],
)
def test_what_is_no_list_of_pictures_is_refused(inputs, words, pipe):
    with pytest.raises(TypeError, match=words):
        pipe(inputs, mpp=0.25)


@pytest.mark.parametrize("mpp", [[0.25, 0.25], pd.Series([0.25] * 4)])
def test_the_numbers_of_images_and_pixel_sizes_must_agree(mpp, paths, pipe):
    with pytest.raises(ValueError, match=f"mpp has {len(mpp)} values for 3 images"):
        pipe(paths, mpp=mpp)


@pytest.mark.parametrize("mpp", ["0.25", {"x": 0.25}, True])
def test_what_is_no_pixel_size_is_named(mpp, pipe):
    with pytest.raises(TypeError, match="mpp must be a number of micrometres per pixel, got"):
        pipe(IMAGES[0], mpp=mpp)


@pytest.fixture
def half_micron(tmp_path):
    """A file that states 0.5 um per pixel."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, paint(100, 120, scale=0.5)[0], photometric="rgb", description="Aperio x|MPP = 0.5")
    return path


def test_the_pixel_size_of_the_file_is_used_and_recorded(half_micron, pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, given = pipe(half_micron), pipe(half_micron, mpp=0.5)
        encoded = pipe(half_micron.read_bytes())
    assert (found.mpp, found.mpp_source) == (encoded.mpp, encoded.mpp_source) == (0.5, "Aperio MPP")
    assert (given.mpp, given.mpp_source) == (0.5, "given")
    assert len(found) > 0
    np.testing.assert_array_equal(found.instance_map, given.instance_map)
    pd.testing.assert_frame_equal(found.table, given.table)
    pd.testing.assert_frame_equal(encoded.table, given.table)


def test_a_given_pixel_size_that_the_file_contradicts_is_used_with_one_warning(half_micron, pipe):
    with pytest.warns(
        UserWarning, match=r"a\.tif.*mpp=0\.25 is used although the file states 0\.5 .*Aperio"
    ) as caught:
        results = pipe([half_micron] * 3, mpp=0.25)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert {result.mpp for result in results} == {0.25}


def test_files_that_state_a_size_and_others_in_one_call(half_micron, paths, pipe):
    with pytest.warns(UserWarning, match="mpp is not given and no file states it") as caught:
        results = pipe([half_micron, *paths])
    assert len(caught) == 1
    assert [result.mpp for result in results] == [0.5, None, None, None]


def test_pixels_that_are_not_square_need_a_given_size(tmp_path, pipe):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGES[0], photometric="rgb", resolution=(40000, 20000), resolutionunit="CENTIMETER", metadata=None
    )
    with pytest.raises(ValueError, match="are not square"):
        pipe(path)
    assert len(pipe(path, mpp=0.25)) == COUNTS[0]
