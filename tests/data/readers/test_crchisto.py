"""CRCHistoPhenotypes has points instead of outlines: discs must stay on their points and not pass for outlines."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cfsam_hf.data.audit import audit_dataset
from cfsam_hf.data.data_items import DataItem, records_by_dataset
from cfsam_hf.data.parquet_writer import write_shards
from cfsam_hf.data.readers.crchisto import TYPES, disc_map, list_crchisto
from cfsam_hf.data.records import UNKNOWN_TYPE
from tests.data_cases import nuclei, painted, save_image, truncate

POINTS = {"others": [(5.0, 6.0)], "inflammatory": [(20.0, 30.0)], "epithelial": [], "fibroblast": [(44.0, 3.5)]}
UNTYPED = [(33.0, 21.0)]


def write_official(root: Path, name: str = "img1") -> Path:
    """One tile as distributed, with the typed nuclei in the file of all detections too; returns that file."""
    folder = root / "CRCHistoPhenotypes_2016_04_28" / "Classification" / name
    save_image(folder / f"{name}.bmp", painted(nuclei()))
    for word, points in POINTS.items():
        savemat(folder / f"{name}_{word}.mat", {"detection": np.array(points)})
    detection = folder.parents[1] / "Detection" / name / f"{name}_detection.mat"
    detection.parent.mkdir(parents=True)
    savemat(detection, {"detection": np.array([*chain(*POINTS.values()), *UNTYPED])})
    return detection


def write_csv(root: Path, rows: str, name: str = "crc_img1") -> Path:
    save_image(root / f"{name}.jpg", painted(nuclei()))
    path = root / f"{name}_points.csv"
    path.write_text(f"x,y,type\n{rows}")
    return path


def types_at(tile, points) -> list[int]:
    return [int(tile.type_map[int(y), int(x)]) for x, y in points]


def test_the_official_layout(tmp_path):
    write_official(tmp_path, "img2")
    write_official(tmp_path, "img10")
    records = list_crchisto(tmp_path)
    assert [(record.id, record.tissue, record.mpp, record.points) for record in records] == [
        ("crc_img2", "Colon", 0.55, True),
        ("crc_img10", "Colon", 0.55, True),
    ]
    tile = records[0].load()
    assert tile.points
    assert tile.type_names == TYPES
    assert types_at(tile, [POINTS["others"][0], POINTS["inflammatory"][0], POINTS["fibroblast"][0]]) == [1, 2, 4]
    # The typed points, which the file of all detections holds too, are there once.
    assert types_at(tile, UNTYPED) == [UNKNOWN_TYPE]
    assert tile.instance_map.max() == 4


def test_points_in_csv_files(tmp_path):
    write_csv(tmp_path, "5,6,1\n20.0,30.0,2\n33,21,0\n44,3.5,\n")
    (record,) = list_crchisto(tmp_path, mpp=0.5)
    tile = record.load()
    assert types_at(tile, [(5, 6), (20, 30), (33, 21), (44, 3.5)]) == [1, 2, UNKNOWN_TYPE, UNKNOWN_TYPE]
    # A radius of 2 um is 4 px.
    assert np.count_nonzero(tile.instance_map == 2) == pytest.approx(np.pi * 4**2, rel=0.1)


def test_a_pixel_belongs_to_the_nearest_point():
    discs = disc_map(np.array([[10.0, 10.5], [14.0, 10.5]]), (20, 30), 3.0)
    assert discs[10].tolist() == [0] * 7 + [1] * 5 + [2] * 5 + [0] * 13
    # Pixels whose centre is at most a radius away.
    rows, columns = np.nonzero(discs == 1)
    assert np.hypot(columns + 0.5 - 10, rows + 0.5 - 10.5).max() <= 3
    assert not disc_map(np.empty((0, 2)), (4, 5), 3.0).any()


def test_what_needs_outlines_refuses_points(tmp_path):
    write_csv(tmp_path, "5,6,1\n")
    with pytest.raises(ValueError, match="points instead of outlines, so no all tile of it can be scored"):
        records_by_dataset([DataItem("crchisto", str(tmp_path))], "all")
    with pytest.raises(ValueError, match="crchisto has points and no outlines"):
        write_shards(list_crchisto(tmp_path), tmp_path / "shards")


def test_a_check_says_that_sizes_are_those_of_discs(tmp_path):
    # Discs of 2 um across, which would be far too small for nuclei.
    write_csv(tmp_path, "".join(f"{x},{y},1\n" for x in range(5, 50, 10) for y in range(5, 40, 10)))
    audit = audit_dataset("crchisto", tmp_path, radius=1.0)
    assert (audit.problems, audit.nuclei) == ([], 20)
    assert [note.split(": ")[-1] for note in audit.notes] == [
        "nuclei have points and no outlines; their diameters are those of discs around the points"
    ]


def test_damaged_files_are_named(tmp_path):
    detection = write_official(tmp_path / "mat")
    (record,) = list_crchisto(tmp_path / "mat")
    savemat(detection, {"detection": np.array([[1.0, 2.0, 3.0]])})
    with pytest.raises(ValueError, match=r"img1_detection\.mat: 'detection' must hold x and y"):
        record.load()
    truncate(detection)
    with pytest.raises(OSError, match=r"img1_detection\.mat"):
        record.load()
    record.image_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no image img1\.bmp"):
        list_crchisto(tmp_path / "mat")
    for rows, message in (("5,six,1\n", "line 2 needs numbers"), ("5,6,1\n5,6,7\n", r"line 3 must have .* 0\.\.4")):
        write_csv(tmp_path / "csv", rows)
        with pytest.raises(ValueError, match=rf"crc_img1_points\.csv: {message}"):
            list_crchisto(tmp_path / "csv")[0].load()
    (tmp_path / "csv" / "crc_img1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image for crc_img1_points\.csv"):
        list_crchisto(tmp_path / "csv")
    with pytest.raises(ValueError, match="radius must be a positive number of micrometres, got 0"):
        list_crchisto(tmp_path, radius=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected folders Classification and Detection"):
        list_crchisto(tmp_path / "empty")
