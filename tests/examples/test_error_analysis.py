"""Why: the error analysis must report counts that are known by construction, with a sheet and a map beside them."""

import json

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.drawing.error_sheet import PANEL
from cfsam_hf.evaluation.error_pictures import COLORS

from ..evaluation.test_errors import NAMES, one_of_each

CLASSES = ("matched", "loose", "split", "merged", "missed", "spurious", "mistyped")


@pytest.fixture
def folders(tmp_path):
    """Two tiles with one error of each class, as pairs and as somebody's label maps."""
    truth, found = one_of_each()
    tiles, maps = tmp_path / "tiles", tmp_path / "maps"
    tiles.mkdir()
    maps.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((60, 200, 3), 220, np.uint8)).save(tiles / f"{name}.png")
        Image.fromarray(truth.astype(np.uint16)).save(tiles / f"{name}_instances.png")
        Image.fromarray((truth > 0).astype(np.uint8)).save(tiles / f"{name}_types.png")
        Image.fromarray(found.astype(np.uint16)).save(maps / f"{name}.png")
        types = np.where(found == 22, 2, found > 0).astype(np.uint8)
        Image.fromarray(types).save(maps / f"{name}_types.png")
    (tiles / "index.csv").write_text("name,tissue,mpp\na,Colon,0.25\nb,Breast,0.25\n")
    (tmp_path / "split.json").write_text(json.dumps({"dataset": "made", "train": [], "validation": ["a", "b"]}))
    return tmp_path


def test_the_files_hold_the_counts(folders, run_example):
    names = json.dumps({str(i): name for i, name in NAMES.items()})
    item = f"reader=instance_pairs,path={folders / 'tiles'},split={folders / 'split.json'},type_names={names}"
    run_example(
        "studies/error_analysis",
        *("--data", item, "--predictions", str(folders / "maps"), "--output_dir", str(folders / "out")),
    )
    record = json.loads((folders / "out" / "errors.json").read_text())
    assert record["format"] == "cfsam_hf errors 1"
    made = record["results"]["made"]
    assert made["true_nuclei"] == {"matched": 4, "loose": 2, "split": 2, "merged": 4, "missed": 2}
    assert made["predictions"] == {"matched": 4, "loose": 2, "split": 4, "merged": 2, "spurious": 2}
    assert made["confusion"] == {"round": {"long": 2, "round": 2}}
    assert made["mean_iou_of_matches"] == pytest.approx(0.9)
    quality = made["pq_mean_over_images_repaired"]
    assert quality["none"] == pytest.approx(1.8 / 7)
    assert quality["merged"] == pytest.approx(3.6 / 7.5)
    assert list(made["tissues"]) == ["Breast", "Colon"]
    assert made["tissues"]["Colon"]["true_nuclei"]["merged"] == 2
    text = (folders / "out" / "errors.md").read_text()
    shares = "4 (29%) | 2 (14%) | 2 (14%) | 4 (29%) | 2 (14%) | 14 | 4 / 2 | 2 (14%) | 2 (50%)"
    assert f"| made | 2 | 14 | {shares} |" in text
    assert "| made, Breast | 0.257 | +0.223 |" in text
    assert "| **round** | 2 | 2 |" in text
    sheet = folders / "out" / "made_errors.png"
    assert sheet.stat().st_size < 400_000
    with Image.open(sheet) as page:
        assert page.format == "PNG"
        assert page.height > len(CLASSES) * PANEL
    with Image.open(folders / "out" / "made_map.png") as page:
        # Below title and legend, which show every colour.
        pixels = np.array(page.convert("RGB"))[150:]
    for name, color in COLORS.items():
        assert (pixels == color).all(axis=-1).any(), name


def test_a_row_takes_from_every_tile_before_it_takes_twice(load_example):
    spread = load_example("studies/error_analysis").spread
    assert spread([["a1", "a2", "a3"], [], ["b1"]]) == ["a2", "b1", "a3", "a1"]
    assert spread([[f"{tile}{i}" for i in "123"] for tile in "abcdefghij"]) == ["b2", "d2", "f2", "h2", "j2"]
