"""Why: a patient on both sides of a split inflates scores; known overlaps of the public data sets must be reported."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from cfsam_hf.data.leaks import case_of, find_leaks, training_leaks
from cfsam_hf.data.records import TileRecord
from cfsam_hf.training import load_training_data, parse_recipe
from tests.data_cases import nuclei, painted, save_image

from .. import REPOSITORY


def record(dataset: str, tile_id: str, folder="data", **fields) -> TileRecord:
    path = Path(folder) / f"{tile_id}.png"
    return TileRecord(dataset, tile_id, path, path, decode=lambda _: None, **fields)


def test_cases():
    for made, case in (
        (record("monuseg", "TCGA-G9-6356-01Z-00-DX1"), "patient TCGA-G9-6356"),
        (record("monusac", "test_TCGA-G9-6356-01Z-00-DX1_2"), "patient TCGA-G9-6356"),
        (record("tnbc", "03_2", metadata={"patient": "03"}), "patient 03 of tnbc"),
        (record("lizard", "crag_7", metadata={"source": "crag"}), "Lizard's image crag_7"),
        (record("conic", "crag_7-0012", metadata={"source": "crag_7"}), "Lizard's image crag_7"),
        (record("conic", "0012"), None),
        (record("pannuke", "fold1_0001", index=1), None),
        (record("instance_pairs", "a", metadata={"id": "a"}), None),
    ):
        assert case_of(made) == case


def test_the_patient_that_monusac_tests_and_monuseg_trains_on():
    monuseg = [record("monuseg", f"TCGA-{patient}-01Z-00-DX1") for patient in ("G9-6356", "18-5592")]
    monusac = [record("monusac", f"test_TCGA-G9-6356-01Z-00-DX1_{k}", fold="test") for k in range(1, 6)]
    assert find_leaks({"MoNuSeg": monuseg, "MoNuSAC": monusac}) == [
        "patient TCGA-G9-6356 is in MoNuSeg (TCGA-G9-6356-01Z-00-DX1) and in MoNuSAC (test_TCGA-G9-6356-01Z-00-DX1_1, "
        "test_TCGA-G9-6356-01Z-00-DX1_2, test_TCGA-G9-6356-01Z-00-DX1_3 and 2 more)"
    ]
    assert find_leaks({"MoNuSeg": monuseg[1:], "MoNuSAC": monusac}) == []


def test_a_tile_is_told_of_as_a_tile_only():
    tile = record("monuseg", "TCGA-18-5592-01Z-00-DX1")
    copy = record("monuseg", "TCGA-18-5592-01Z-00-DX1", folder="elsewhere")
    leaks = find_leaks({"train": [tile], "validation": [copy]})
    assert leaks == ["tile TCGA-18-5592-01Z-00-DX1 is in train and in validation"]


def test_your_own_tiles_are_the_same_where_their_files_are():
    groups = {"a": [record("instance_pairs", "tile_1")], "b": [record("instance_pairs", "tile_1", folder="other")]}
    assert find_leaks(groups) == []
    groups["b"] = [record("coco", "tile_1"), record("coco", "tile_2", folder="other")]
    assert find_leaks(groups) == ["tile tile_1 is in a and in b"]


def test_lizard_is_cut_from_consep_and_pannuke():
    lizard = [record("lizard", f"consep_{number}", metadata={"source": "consep"}) for number in (1, 2)]
    conic = [record("conic", "pannuke_3-0001", metadata={"source": "pannuke_3"})]
    consep = [record("consep", "test_4", fold="test")]
    told = ["2 tiles of train (consep_1, consep_2) are cut from images of consep, which is in CoNSeP"]
    assert find_leaks({"train": lizard + conic, "CoNSeP": consep}) == told
    assert find_leaks({"CoNSeP": consep, "train": lizard + conic}) == told
    assert find_leaks({"train": lizard, "CoNIC": conic}) == []


def test_training():
    kumar = [record("kumar", "TCGA-18-5592-01Z-00-DX1")]
    monuseg = [record("monuseg", "TCGA-18-5592-01Z-00-DX1"), record("monuseg", "TCGA-HE-7128-01Z-00-DX1")]
    # Patients may train twice; a tile that does counts twice.
    assert training_leaks({"kumar": kumar, "monuseg": monuseg}, {}, {}) == []
    shared = ["tile TCGA-HE-7128-01Z-00-DX1 is in a and in b"]
    assert training_leaks({"a": monuseg, "b": monuseg[1:]}, {}, {}) == shared
    where = "(TCGA-18-5592-01Z-00-DX1)"
    for part, others in (("tuning", ({"monuseg": monuseg}, {})), ("validation", ({}, {"monuseg": monuseg}))):
        leak = f"patient TCGA-18-5592 is in training {where} and in {part} {where}"
        assert training_leaks({"kumar": kumar}, *others) == [leak]
    [leak] = training_leaks({}, {"kumar": kumar}, {"monuseg": monuseg})
    assert "is in tuning" in leak
    assert "and in validation" in leak


def test_an_organ_of_nuinsseg_belongs_to_one_part():
    one, two = (replace(record("nuinsseg", f"human_liver_0{n}"), tissue="human liver") for n in (1, 2))
    other = replace(record("nuinsseg", "mouse_liver_01"), tissue="mouse liver")
    [leak] = find_leaks({"train": [one, other], "validation": [two]})
    assert leak == "NuInsSeg's human liver is in train (human_liver_01) and in validation (human_liver_02)"


def test_a_training_run_tells_of_them(tmp_path, caplog):
    for name in ("TCGA-18-5592-1", "TCGA-18-5592-2", "TCGA-HE-7128-1"):
        save_image(tmp_path / f"{name}.png", painted(nuclei()))
        save_image(tmp_path / f"{name}_instances.png", nuclei().astype(np.uint16))
    split = tmp_path / "split.json"
    item = f"reader=instance_pairs,path={tmp_path},split={split}"
    with caplog.at_level(logging.WARNING, logger="cfsam_hf"):
        for validation, told in (("TCGA-18-5592-2", ["TCGA-18-5592"]), ("TCGA-HE-7128-1", [])):
            caplog.clear()
            split.write_text(
                '{"dataset": "own", "train": ["TCGA-18-5592-1"], "validation": ["%s"]}' % validation  # noqa: UP031
            )
            load_training_data(parse_recipe(["--data", item, "--output_dir", str(tmp_path / "run")]))
            assert [r.message.split(" is in ")[0] for r in caplog.records] == [f"leak: patient {p}" for p in told]


def test_the_committed_splits_of_the_real_data(real_data):
    from cfsam_hf.data import list_tiles, read_split, select_tiles

    splits = REPOSITORY / "examples" / "splits"
    for name in ("consep", "monuseg"):
        records, split = list_tiles(name, real_data / name), read_split(splits / f"{name}.json")
        parts = {part: select_tiles(records, ids) for part, ids in split.parts().items()}
        assert find_leaks(parts) == []
