"""Why: the label map of a slide must hold every nucleus exactly, at every level, without ever being in memory."""

import json
from xml.etree import ElementTree

import numpy as np
import pyarrow
import pytest
import tifffile

from cfsam_hf.files.own_results import is_own_result
from cfsam_hf.model.pixel_size import read_pixel_size
from cfsam_hf.outputs import label_pyramid
from cfsam_hf.outputs.label_pyramid import TileStore, write_label_pyramid
from cfsam_hf.outputs.slide_record import slide_record
from cfsam_hf.outputs.slide_table import nuclei_batch, nuclei_schema

from ..export_cases import TYPE_NAMES, blob_map, label_components, make_result, small_map

SCHEMA = nuclei_schema(TYPE_NAMES)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(label_pyramid, "TILE", 32)
    monkeypatch.setattr(label_pyramid, "MOST_TILES", 3)
    monkeypatch.setattr(label_pyramid, "DRAWN_TOGETHER", 50)


def record_of(size, **more):
    facts = {"image": "s.svs", "image_size": size, "nuclei": 1, "mpp": (0.25, 0.5), "type_names": TYPE_NAMES}
    return slide_record(**facts | {"checkpoint": "cfsam-tiny", "version": "0.0.1"} | more)


def test_every_level_shows_the_nuclei(tmp_path):
    instance_map = label_components(blob_map(size=161)[:, :130] > 0)
    batch = nuclei_batch(make_result(instance_map), SCHEMA)
    # Whatever the order of the nuclei, and although only three tiles are in memory.
    order = np.random.default_rng(0).permutation(len(batch))
    write_label_pyramid([batch.take(pyarrow.array(order))], tmp_path / "a.ome.tif", record_of((130, 161)))
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        [series] = tiff.series
        assert [level.shape for level in series.levels] == [(161, 130), (81, 65), (41, 33), (21, 17)]
        for number, level in enumerate(series.levels):
            assert level.dtype == np.uint32
            assert level.pages[0].is_tiled
            np.testing.assert_array_equal(level.asarray(), instance_map[:: 2**number, :: 2**number])


def test_nuclei_are_cut_where_the_slide_ends(tmp_path):
    batch = nuclei_batch(make_result(np.ones((40, 40), np.int32)), SCHEMA, offset=(-10, -10), scale=(2, 2))
    write_label_pyramid([batch], tmp_path / "a.ome.tif", record_of((50, 40)))
    assert tifffile.imread(tmp_path / "a.ome.tif").tolist() == [[1] * 50] * 40
    beyond = nuclei_batch(make_result(np.ones((4, 4), np.int32)), SCHEMA, offset=(-10, 100))
    write_label_pyramid([beyond], tmp_path / "a.ome.tif", record_of((50, 40)))
    assert not tifffile.imread(tmp_path / "a.ome.tif").any()


def test_metadata_say_what_made_it_and_how_large_pixels_are(tmp_path):
    batch, record = nuclei_batch(make_result(small_map()), SCHEMA), record_of((70, 70))
    for name in ("a.ome.tif", "b.ome.tif"):
        write_label_pyramid([batch], tmp_path / name, record)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert tiff.is_ome
        assert tiff.is_bigtiff
        description = ElementTree.fromstring(tiff.ome_metadata).find(".//{*}Image/{*}Description").text
    assert json.loads(description) == record
    size = read_pixel_size(tmp_path / "a.ome.tif")
    assert (size.x, size.y) == (0.25, 0.5)
    assert is_own_result(tmp_path / "a.ome.tif")
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()
    write_label_pyramid([batch], tmp_path / "c.ome.tif", record_of((70, 70), mpp=None))
    assert read_pixel_size(tmp_path / "c.ome.tif") is None


def test_ids_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    batch = nuclei_batch(make_result(small_map()), SCHEMA)
    large = batch.set_column(1, "id", pyarrow.array(np.arange(8) + 2**32 - 4))
    with pytest.raises(ValueError, match="do not fit a label map"):
        write_label_pyramid([large], tmp_path / "a.ome.tif", record_of((12, 9)))
    assert not list(tmp_path.iterdir())


def test_memory_holds_few_tiles(tmp_path, monkeypatch):
    held = []
    opened = TileStore.open

    def counted(self, key):
        tile = opened(self, key)
        held.append(len(self._open))
        return tile

    monkeypatch.setattr(TileStore, "open", counted)
    batch = nuclei_batch(make_result(blob_map(size=200)), SCHEMA)
    write_label_pyramid([batch], tmp_path / "a.ome.tif", record_of((200, 200)))
    assert len(held) > 49
    assert max(held) == 3
