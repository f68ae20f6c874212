"""Why: PUMA's classes have no numbers and its outlines may have parts; types and pixels must be right."""

import json
from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.puma import TYPES, list_puma
from tests.data_cases import geojson_polygon, nuclei, painted, save_image, truncate, types_by_id

STEM = "training_set_primary_roi_001"


def feature(name: str, *boxes: tuple[float, float, float, float]) -> dict:
    """A nucleus of one box (x0, y0, x1, y1), or of several as a MultiPolygon, with the class as PUMA writes it."""
    polygons = [geojson_polygon(*box) for box in boxes]
    geometry = {"type": "Polygon", "coordinates": polygons[0]}
    if len(polygons) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
    classification = {"name": f"nuclei_{name}", "color": [200, 0, 0]}
    properties = {"objectType": "annotation", "classification": classification}
    return {"type": "Feature", "id": f"{name}-1", "geometry": geometry, "properties": properties}


def write_region(root: Path, features: list[dict], stem=STEM) -> Path:
    """Write a region as distributed: RGBA TIFF, nuclei and tissue GeoJSON in their folders; returns the nuclei."""
    rgba = np.dstack([painted(nuclei(64, 64)), np.full((64, 64), 255, dtype=np.uint8)])
    save_image(root / "01_training_dataset_tif_ROIs" / f"{stem}.tif", rgba)
    for kind, content in (("tissue", []), ("nuclei", features)):
        path = root / f"01_training_dataset_geojson_{kind}" / f"{stem}_{kind}.geojson"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": content}))
    return path


def test_all_types(tmp_path):
    names = list(TYPES.values())
    write_region(tmp_path, [feature(name, (6 * i, 10, 6 * i + 5, 14)) for i, name in enumerate(names)])
    tile = list_puma(tmp_path)[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {type_id: [type_id] for type_id in TYPES}
    assert np.bincount(tile.instance_map.ravel())[1:].tolist() == [20] * 10
    np.testing.assert_array_equal(tile.image, painted(nuclei(64, 64)))
    assert (tile.mpp, tile.tissue, tile.id) == (0.23, "primary melanoma", STEM)


def test_parts_are_one_nucleus_and_fractions_go_to_pixel_centres(tmp_path):
    write_region(
        tmp_path, [feature("tumor", (2, 2, 6, 6), (8, 2, 10, 6)), feature("stroma", (20.4, 20.6, 24.6, 23.4))]
    )
    tile = list_puma(tmp_path)[0].load()
    assert set(np.unique(tile.instance_map[2:6, [2, 5, 8, 9]])) == {1}
    rows, columns = np.nonzero(tile.instance_map == 2)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (21, 22, 20, 24)


def test_overlaps_and_order(tmp_path):
    write_region(tmp_path, [feature("tumor", (2, 2, 6, 6)), feature("stroma", (4, 2, 20, 20))])
    write_region(tmp_path, [feature("tumor", (2, 2, 6, 6))], "training_set_metastatic_roi_010")
    records = list_puma(tmp_path)
    assert [record.tissue for record in records] == ["metastatic melanoma", "primary melanoma"]
    assert records[1].load().type_map[4, 5] == 7
    assert (records[1].load().overlaps.nuclei, records[0].load().overlaps.nuclei) == (2, 0)
    assert list_puma(tmp_path, overlap="smaller")[1].load().type_map[4, 5] == 1


def test_damaged_files_are_named(tmp_path):
    path = write_region(tmp_path, [feature("tumour", (2, 2, 6, 6))])
    with pytest.raises(ValueError, match=rf"{path.name}: unknown classes \['nuclei_tumour'\]; expected nuclei_tumor"):
        list_puma(tmp_path)[0].load()
    write_region(tmp_path, [feature("tumor", (2000, 2, 2006, 6))])
    with pytest.raises(ValueError, match=rf"{path.name}: polygons reach 2006 px"):
        list_puma(tmp_path)[0].load()
    write_region(tmp_path, [])
    with pytest.raises(ValueError, match=rf"{path.name}: no nuclei"):
        list_puma(tmp_path)[0].load()
    truncate(path)
    with pytest.raises(OSError, match=rf"{path.name}: not a JSON file"):
        list_puma(tmp_path)[0].load()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"geojson_nuclei: no _nuclei\.geojson file for {STEM}\.tif"):
        list_puma(tmp_path)
    with pytest.raises(ValueError, match="no official splits"):
        list_puma(tmp_path, split="train")
    with pytest.raises(FileNotFoundError, match="01_training_dataset_tif_ROIs"):
        list_puma(path.parent)
