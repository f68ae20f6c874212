"""Outlines of other tools, to be typed: each nucleus with its own outline and id, and nothing else."""

import json

import numpy as np
import pytest
import tifffile

from cfsam_hf.data import read_given_nuclei
from cfsam_hf.data.readers.given_nuclei import files_of_nuclei
from tests.data_cases import geojson_polygon, nuclei, painted, save_image


def geojson(path, polygons, kind="detection"):
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {"objectType": kind, "classification": {"name": name}},
        }
        for rings, name in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_label_map_keeps_its_ids(tmp_path):
    label_map = nuclei(ids=(70_000, 3, 12))
    tifffile.imwrite(tmp_path / "a.tif", label_map)
    given = read_given_nuclei(tmp_path / "a.tif", 40, 50)
    assert given.ids.tolist() == [3, 12, 70_000]
    assert given.shapes[2][0][0].min(axis=0).tolist() == [2, 2]


def test_an_id_in_two_pieces_is_one_nucleus_of_two_polygons(tmp_path):
    label_map = nuclei(ids=(1, 2, 1, 4, 5))
    np.save(tmp_path / "a.npy", label_map)
    given = read_given_nuclei(tmp_path / "a.npy", 40, 50)
    assert [len(shape) for shape in given.shapes] == [2, 1, 1, 1]


def test_geojson_without_regions(tmp_path):
    path = geojson(
        tmp_path / "a.geojson",
        [
            (geojson_polygon(0, 0, 50, 40), "Region*"),
            (geojson_polygon(2.5, 2, 6, 7), "Tumor"),
            (geojson_polygon(-9, -9, -4, -4), "Tumor"),
            (geojson_polygon(20, 3, 24, 9), "Tumor"),
        ],
    )
    given = read_given_nuclei(path, 40, 50)
    assert given.ids.tolist() == [1, 2]
    assert given.shapes[0][0][0][0].tolist() == [2.5, 2]
    assert given.notes == (
        "1 regions are not nuclei and were left out",
        "1 outlines outside the image were left out",
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: save_image(p / "a.png", np.where(nuclei() > 0, 255, 0).astype(np.uint8)), "is it a mask"),
        (lambda p: save_image(p / "a.png", np.zeros((40, 50), np.uint8)), "holds no nuclei"),
        (lambda p: save_image(p / "a.png", nuclei(30, 50).astype(np.uint8)), "the label map is 30 x 50 but"),
        (lambda p: geojson(p / "a.geojson", []), "holds no nuclei"),
        (lambda p: geojson(p / "a.geojson", [(geojson_polygon(900, 2, 906, 7), "a")]), "polygons reach 906 px"),
        (
            lambda p: geojson(p / "a.geojson", [(geojson_polygon(-x - 9, 2, -x - 3, 7), "a") for x in range(4)]),
            "4 of its 4 outlines contain no pixel",
        ),
    ],
)
def test_files_of_no_use_are_refused_by_name(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=f"{path.name}: .*{message}"):
        read_given_nuclei(path, 40, 50)


@pytest.mark.parametrize("together", [True, False])
def test_the_file_of_each_image(tmp_path, together):
    folder = tmp_path if together else tmp_path / "outlines"
    folder.mkdir(exist_ok=True)
    images = [save_image(tmp_path / f"{stem}.png", painted(nuclei())) for stem in "abc"]
    label = save_image(folder / "a_cp_masks.png", nuclei().astype(np.uint8))
    outlined = geojson(folder / "b.geojson", [(geojson_polygon(2, 2, 6, 7), "x")])
    assert files_of_nuclei(folder, images) == {images[0]: label, images[1]: outlined}
