"""Why: label maps have the names that tools give them; they must pair with their images and never count as images."""

import numpy as np
import pytest

from cfsam_hf.data.readers.instance_pairs import list_instance_pairs
from cfsam_hf.data.readers.label_names import label_files, part_pictures
from cfsam_hf.drawing.overlay import write_overlay
from cfsam_hf.outputs import write_instance_map
from tests.data_cases import nuclei, painted, save_image
from tests.export_cases import blob_map, make_result

IMAGE, LABELS = painted(nuclei()), nuclei().astype(np.uint16)


@pytest.mark.parametrize(
    "name",
    [
        *("tile_cp_masks.png", "tile_masks.tif", "tile_labels.tif", "tile.labels.tif", "tile-labelled.png"),
        *("tile_label.png", "tile-lbl.tif", "tile_seg.tif", "tile_mask.png", "tile_instances.tif"),
    ],
)
def test_names_of_other_tools(tmp_path, name):
    save_image(tmp_path / "tile.png", IMAGE)
    save_image(tmp_path / name, LABELS)
    for other in ("tile_cp_output.png", "tile_flows.tif", "tile_outlines.png"):
        save_image(tmp_path / other, IMAGE)
    (record,) = list_instance_pairs(tmp_path)
    assert (record.image_path.name, record.label_path.name) == ("tile.png", name)
    np.testing.assert_array_equal(record.load().instance_map, LABELS)


def test_an_array_beside_its_image(tmp_path):
    save_image(tmp_path / "tile.png", IMAGE)
    np.save(tmp_path / "tile_masks.npy", nuclei().astype(np.int64))
    np.testing.assert_array_equal(list_instance_pairs(tmp_path)[0].load().instance_map, LABELS)
    np.save(tmp_path / "tile_masks.npy", np.zeros((2, 40, 50)))
    with pytest.raises(ValueError, match=r"tile_masks\.npy: expected an array of any x any"):
        list_instance_pairs(tmp_path)[0].load()


def test_our_own_name_goes_first(tmp_path):
    save_image(tmp_path / "tile.png", IMAGE)
    for name in ("tile_mask.png", "tile_cp_masks.png", "tile_instances.png"):
        save_image(tmp_path / name, LABELS)
    images, labels, types = part_pictures(tmp_path)
    assert (list(images), labels["tile"].name, types) == (["tile"], "tile_instances.png", {})


def test_an_image_may_have_such_a_name(tmp_path):
    for name in ("gold_mask.png", "gold_mask_instances.png", "b_labels.png"):
        save_image(tmp_path / name, LABELS if "instances" in name else IMAGE)
    images, labels, _ = part_pictures(tmp_path)
    assert (list(images), list(labels)) == (["b_labels", "gold_mask"], ["gold_mask"])


def test_folders_of_other_tools(tmp_path):
    save_image(tmp_path / "images" / "a.png", IMAGE)
    save_image(tmp_path / "masks" / "a.tif", LABELS)
    (record,) = list_instance_pairs(tmp_path)
    assert record.label_path.name == "a.tif"
    save_image(tmp_path / "elsewhere" / "a_cp_masks.png", LABELS)
    save_image(tmp_path / "elsewhere" / "notes_overlay.png", IMAGE)
    labels, _ = label_files(tmp_path / "elsewhere", ["a"])
    assert {stem: file.name for stem, file in labels.items()} == {"a": "a_cp_masks.png"}


def test_cellposes_pickle_is_refused_in_words(tmp_path):
    save_image(tmp_path / "tile.png", IMAGE)
    np.save(tmp_path / "tile_seg.npy", {"masks": LABELS}, allow_pickle=True)
    with pytest.raises(ValueError, match=r"tile_seg\.npy: .*pickle.*save the masks as PNG or TIFF"):
        list_instance_pairs(tmp_path)
    save_image(tmp_path / "tile_cp_masks.png", LABELS)
    assert len(list_instance_pairs(tmp_path)) == 1


def test_own_results_are_no_images(tmp_path):
    label_map = blob_map(size=80)
    result = make_result(label_map)
    save_image(tmp_path / "tile.png", painted(label_map))
    write_instance_map(result, tmp_path / "tile_instances.tif")
    write_overlay(result, painted(label_map), tmp_path / "picture for the talk.png")
    write_instance_map(result, tmp_path / "copy.tif")
    (record,) = list_instance_pairs(tmp_path)
    np.testing.assert_array_equal(record.load().instance_map, label_map)


@pytest.mark.parametrize("name", ["tile_stardist.tif", "tile.png_mask.png", "tile-InstanceMap.png"])
def test_a_probable_label_map_of_an_unknown_name_is_named(tmp_path, name):
    save_image(tmp_path / "tile.png", painted(nuclei()))
    save_image(tmp_path / name, nuclei().astype(np.uint8))
    with pytest.raises(ValueError, match=rf"{name}: neither it nor tile\.png .* name it tile_instances\."):
        list_instance_pairs(tmp_path)


@pytest.mark.parametrize("image", ["tile.png", "tile.ome.tif"])
@pytest.mark.parametrize("label", ["tile_instances.ome.tif", "tile_labels.ome.tif", "tile_instances.tif"])
def test_ome_tiff_of_images_and_of_label_maps(tmp_path, image, label):
    save_image(tmp_path / image, IMAGE)
    save_image(tmp_path / label, LABELS)
    (record,) = list_instance_pairs(tmp_path)
    assert (record.image_path.name, record.label_path.name) == (image, label)
    save_image(tmp_path / label.replace("instances", "types").replace("labels", "types"), LABELS)
    assert list(part_pictures(tmp_path)[2]) == [record.id]


def test_our_own_label_map_of_an_ome_tiff(tmp_path):
    """The name of the image is kept in that of its results: `a.ome_instances.tif`."""
    save_image(tmp_path / "a.ome.tif", IMAGE)
    write_instance_map(make_result(blob_map()), tmp_path / "a.ome_instances.tif")
    assert [record.label_path.name for record in list_instance_pairs(tmp_path)] == ["a.ome_instances.tif"]


def test_ome_tiff_in_a_folder_of_label_maps(tmp_path):
    save_image(tmp_path / "images" / "a.png", IMAGE)
    save_image(tmp_path / "labels" / "a.ome.tif", LABELS)
    assert list_instance_pairs(tmp_path)[0].label_path.name == "a.ome.tif"
