"""Why: label maps of other systems come in many formats; each must give the nuclei and types that were written."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from cfsam_hf.data import Tile
from cfsam_hf.evaluation import LabelMapFolder
from cfsam_hf.metrics import types_from_map
from cfsam_hf.outputs import write_instance_map, write_table

from ..data_cases import nuclei, painted, truncate
from ..export_cases import TYPE_NAMES, make_result

NAMES = {1: "round", 2: "long"}
IDS = nuclei(ids=(2, 5, 9))
TYPE_MAP = np.where(IDS == 5, 2, np.where(IDS > 0, 1, 0)).astype(np.int32)
TYPE_OF = {2: 1, 5: 2, 9: 1}


def tile(name="a"):
    return Tile(painted(IDS), IDS, TYPE_MAP, name, type_names=NAMES)


def by_id(prediction):
    types = prediction.types
    return types_from_map(prediction.instance_map, types) if isinstance(types, np.ndarray) else types


def write_plain(folder):
    Image.fromarray(IDS.astype(np.uint16)).save(folder / "a.png")
    Image.fromarray(TYPE_MAP.astype(np.uint8)).save(folder / "a_types.png")


def write_tiff(folder):
    tifffile.imwrite(folder / "a_instances.tif", IDS.astype(np.int32))
    np.save(folder / "a_types.npy", TYPE_MAP)


def write_conic(folder):
    np.save(folder / "a.npy", np.stack([IDS, TYPE_MAP], axis=-1).astype(np.uint16))


def write_hovernet(folder):
    savemat(folder / "a.mat", {"inst_map": IDS.astype(float), "inst_type": np.array([[1], [2], [1]])})


def write_hovernet_with_uid(folder):
    mat = {"inst_map": IDS, "inst_type": np.array([[2], [1], [1]]), "inst_uid": np.array([[5], [9], [2]])}
    savemat(folder / "a.mat", mat)


def write_mat_with_type_map(folder):
    savemat(folder / "a.mat", {"inst_map": IDS, "type_map": TYPE_MAP.astype(float)})


@pytest.mark.parametrize(
    "write",
    [write_plain, write_tiff, write_conic, write_hovernet, write_hovernet_with_uid, write_mat_with_type_map],
)
def test_every_form_gives_ids_and_types(tmp_path, write):
    write(tmp_path)
    prediction = LabelMapFolder(tmp_path)(tile())
    np.testing.assert_array_equal(prediction.instance_map, IDS)
    assert by_id(prediction) == TYPE_OF
    assert prediction.type_names == NAMES
    assert LabelMapFolder(tmp_path, ["long", "round"])(tile()).type_names == {1: "long", 2: "round"}


def test_a_label_map_alone_has_no_types(tmp_path):
    np.save(tmp_path / "a.npy", IDS)
    prediction = LabelMapFolder(tmp_path)(tile())
    assert prediction.types is None
    assert prediction.type_names == {}


@pytest.mark.parametrize("typed", [True, False])
def test_what_cfsam_segment_wrote_has_types_names_and_scores(tmp_path, typed):
    result = make_result(nuclei(), typed=typed)
    write_instance_map(result, tmp_path / "a_instances.tif")
    write_table(result, tmp_path / "a.parquet")
    Image.new("RGB", (50, 40)).save(tmp_path / "a_overlay.png")
    prediction = LabelMapFolder(tmp_path)(tile())
    assert prediction.types == ({1: 1, 2: 2, 3: 3} if typed else None)
    assert prediction.type_names == (TYPE_NAMES if typed else {})
    assert list(prediction.scores.values()) == result.table["score"].tolist()


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        LabelMapFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no label maps here"):
        LabelMapFolder(tmp_path)
    np.save(tmp_path / "a.npy", IDS)
    folder = LabelMapFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no label map for b, c \(expected b\{"):
        folder.check(["a", "b", "c"])
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / "a_instances.png")
    with pytest.raises(ValueError, match="are both for tile a"):
        LabelMapFolder(tmp_path)
    (tmp_path / "a_instances.png").unlink()
    np.save(tmp_path / "a.npy", np.zeros((3, 40, 50), int))
    with pytest.raises(ValueError, match=r"found \(3, 40, 50\)"):
        folder(tile())
    np.save(tmp_path / "a.npy", IDS + 0.5)
    with pytest.raises(ValueError, match="whole numbers"):
        folder(tile())
    truncate(tmp_path / "a.npy")
    with pytest.raises(OSError, match=r"a\.npy"):
        folder(tile())


def test_types_that_do_not_fit_the_nuclei_are_named(tmp_path):
    savemat(tmp_path / "a.mat", {"inst_map": IDS, "inst_type": np.array([[1], [2]])})
    with pytest.raises(ValueError, match="2 rows for 3 nuclei"):
        LabelMapFolder(tmp_path)(tile())
    np.save(tmp_path / "b.npy", IDS)
    np.save(tmp_path / "b_types.npy", TYPE_MAP[:9])
    with pytest.raises(ValueError, match=r"type map is \(9, 50\)"):
        LabelMapFolder(tmp_path)(tile("b"))
