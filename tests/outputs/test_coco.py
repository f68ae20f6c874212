"""Why: COCO tools must read our masks; the run lengths are checked against pycocotools' output and published data."""

import json

import numpy as np
import pytest

from cfsam_hf.outputs import coco_record, write_coco
from cfsam_hf.outputs.coco import compress_run_lengths, mask_run_lengths

from ..export_cases import blob_map, make_result, small_map


def decode(counts, size):
    """Run lengths (list, or the text form) to a mask; written after the comments in the COCO API's maskApi.c."""
    if isinstance(counts, str):
        lengths, position = [], 0
        while position < len(counts):
            value, shift, more = 0, 0, True
            while more:
                bits = ord(counts[position]) - 48
                value |= (bits & 0x1F) << shift
                more, shift, position = bool(bits & 0x20), shift + 5, position + 1
            if bits & 0x10:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        counts = lengths
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size[::-1]).T


def test_the_text_form_is_that_of_pycocotools():
    mask = np.zeros((7, 9), dtype=bool)
    mask[2:5, 3:6] = True
    mask[3, 4] = False
    mask[:, 8] = mask[6, 0] = mask[0, 1] = True
    lengths = mask_run_lengths(mask, (0, 0, 9, 7), (9, 7))
    assert compress_run_lengths(lengths) == "62?1ENM032<4"  # pycocotools 2, mask.encode


def test_run_lengths_are_those_of_published_annotations(real_data):
    folder = real_data / "metric_oracles" / "pannuke_breast25" / "data"
    annotations = json.loads((folder / "json_annotation_demo.json").read_text())["annotations"]
    for annotation in annotations[:200]:
        counts, size = annotation["segmentation"]["counts"], annotation["segmentation"]["size"]
        mask = decode(counts, size)
        if not mask.any():
            continue
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        ours = mask_run_lengths(mask[box[1] : box[3], box[0] : box[2]], box, (size[1], size[0]))
        assert ours == [*counts[:-1], counts[-1]] or ours == counts[:-1]
        np.testing.assert_array_equal(decode(compress_run_lengths(ours), size), mask)


@pytest.mark.parametrize("instance_map", [small_map(), blob_map()], ids=["small", "blobs"])
def test_masks_come_back(instance_map, tmp_path):
    result = make_result(instance_map)
    write_coco(result, tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    back = np.zeros_like(instance_map)
    for annotation in record["annotations"]:
        mask = decode(annotation["segmentation"]["counts"], annotation["segmentation"]["size"])
        back[mask] = annotation["instance_id"]
        assert mask.sum() == annotation["area"]
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
    np.testing.assert_array_equal(back, instance_map)
    assert [a["category_id"] for a in record["annotations"]] == result.table["type"].tolist()
    height, width = instance_map.shape
    assert record["images"] == [
        {"id": 1, "file_name": "case 7/tile é.png", "width": width, "height": height, "mpp": 0.25}
    ]
    assert (record["info"]["checkpoint"], record["info"]["version"]) == ("cfsam-tiny", "0.0.1")


def test_several_images_share_categories_and_number_annotations_on():
    record = coco_record([make_result(small_map(), image_name="a.png"), make_result(small_map(), image_name="b.png")])
    assert [image["file_name"] for image in record["images"]] == ["a.png", "b.png"]
    assert [annotation["id"] for annotation in record["annotations"]] == list(range(1, 17))
    assert [annotation["image_id"] for annotation in record["annotations"]] == [1] * 8 + [2] * 8
    assert len(record["categories"]) == 3
    assert "image" not in record["info"]


def test_untyped_nuclei_have_one_category():
    record = coco_record([make_result(small_map(), typed=False)])
    assert [c["name"] for c in record["categories"]] == ["nucleus"]
    assert {a["category_id"] for a in record["annotations"]} == {1}
    assert all("type_probability" not in a for a in record["annotations"])


def test_no_results_and_no_nuclei():
    assert coco_record([])["images"] == []
    assert coco_record([make_result(np.zeros((3, 3), np.int32))])["annotations"] == []


def test_different_types_are_refused():
    with pytest.raises(ValueError, match="a file for each checkpoint"):
        coco_record([make_result(small_map()), make_result(small_map(), typed=False)])
