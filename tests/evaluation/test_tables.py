"""Why: tables are copied into papers; figures, gaps and averaging must match the results."""

import itertools
import json
import re

import pytest

from cfsam_hf.evaluation.tables import BOLD_CAPTION, SEGMENTATION, comparison, markdown_table, report
from cfsam_hf.files.json_files import finite


def result(pq, *, types=(), tiles=("a", "b"), **more):
    scores = {"images": len(tiles), "true_nuclei": 1234, "pred_nuclei": 9}
    scores |= {f"{name}_mean_over_images": pq for name in ("dice", "aji", "aji_plus", "dq", "sq", "pq", "bpq")}
    scores |= {f"detection_{name}_pooled": 0.5 for name in ("f1", "precision", "recall")}
    scores |= {f"type_f1_pooled/{name}": value for name, value in types}
    if types:
        scores |= {"mpq_mean_over_images": 0.25, "mpq_plus_pooled": 0.26, "r2_mean_over_types": -0.5}
    intervals = {"pq_mean_over_images": [pq - 0.1, pq + 0.1]}
    return {"tiles": list(tiles), "types": [n for n, _ in types], "scores": scores, "intervals": intervals, **more}


def record(name, **results):
    # As it is read back from its file.
    content = {"system": {"name": name}, "part": "validation", "results": results}
    return json.loads(json.dumps(finite(content)))


def rows(markdown, first):
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_one_system():
    text = report(record("mine", consep=result(0.5, types=[("round", 0.75), ("long", float("nan"))])))
    head, scores = rows(text, "segmentation"), rows(text, "consep | 2 | 1,234")
    assert dict(zip(head, scores, strict=True))["PQ"] == "0.500"
    assert dict(zip(head, scores, strict=True))["R2"] == "-0.500"
    assert "[0.400, 0.600]" in text
    detection = rows(text[text.index("| detection") :], "consep")
    assert detection[-2:] == ["0.750", "–"]
    assert rows(text, "detection")[-2:] == ["F1 round", "F1 long"]
    assert "means over images" in text
    assert "counts pooled over images" in text
    assert "tissue" not in text


def test_tissues_have_a_table_with_both_averages():
    typed = [("round", 0.75)]
    whole = result(0.5, types=typed, tissues={"Breast": result(0.25, types=typed), "Colon": result(0.75, types=typed)})
    whole["scores"] |= {"bpq_mean_over_tissues": 0.625, "mpq_mean_over_tissues": 0.125}
    text = report(record("mine", pannuke=whole))
    assert rows(text, "pannuke, by tissue") == ["pannuke, by tissue", "images", "Dice", "AJI", "PQ", "bPQ", "mPQ"]
    assert rows(text, "Breast")[4:] == ["0.250", "0.250", "0.250"]
    assert rows(text, "mean over images")[5:] == ["0.500", "0.250"]
    assert rows(text, "mean over tissues")[2:] == ["–", "–", "–", "0.625", "0.125"]


def test_deviations_over_folds_stand_in_place_of_intervals():
    whole = result(0.5, deviations={"pq_mean_over_images": 0.01})
    del whole["intervals"]
    text = report(record("mine", pannuke=whole))
    assert "± 0.010" in text
    assert "standard deviation over the folds" in text
    assert "bootstrap" not in text


def test_systems_side_by_side():
    typed = record("mine", consep=result(0.5, types=[("round", 0.75)]), monuseg=result(0.25))
    other = record("a|b", consep=result(0.75), monuseg=result(0.25))
    text = comparison([typed, other])
    assert rows(text, "data set")[-2:] == ["Fd", "F1 round"]
    assert rows(text, "consep | mine")[3] == "0.500"
    # A bar in a name does not end its cell.
    assert r"| consep | a\|b | 2 | **0.750** |" in text
    # Alone in its column nothing is the best.
    assert rows(text, "consep | mine")[-1] == "0.750"
    assert "| monuseg | mine | 2 | **0.250** |" in text
    assert text.rstrip().endswith(BOLD_CAPTION)
    alone = comparison([typed])
    assert "**" not in alone
    assert BOLD_CAPTION not in alone


def captions(markdown):
    """The words below each table, by its head."""
    found, head = {}, None
    for before, line in itertools.pairwise(["", *markdown.splitlines()]):
        if line.startswith("|") and not before.startswith("|"):
            head = line
        elif line and not line.startswith(("|", "#")):
            found[head] = f"{found.get(head, '')} {line}"
    return found


@pytest.mark.parametrize("types", [(), [("round", 0.75)]])
@pytest.mark.parametrize("left_out", [(), ("aji_plus",), ("dice", "dq")])
@pytest.mark.parametrize("intervals", [True, False])
def test_a_caption_names_the_columns_that_are_there_and_no_others(types, left_out, intervals):
    part = result(0.5, types=types)
    for name in left_out:
        del part["scores"][f"{name}_mean_over_images"]
    if not intervals:
        part["intervals"] = {"pq_mean_over_images": [float("nan")] * 2}
    one = record("mine", consep=part)
    for text in (report(one), comparison([one]), comparison([one, record("theirs", consep=part)])):
        found = captions(text)
        assert found
        for head, caption in found.items():
            columns = [cell.strip() for cell in head.strip("|").split("|")]
            words = set(re.findall(r"[A-Za-z][\w+]*", caption))
            for label in SEGMENTATION:
                assert (label in words) == (label in columns), (label, caption)
            assert ("of types" in caption or "of each type" in caption) == ("F1 round" in columns)
            assert ("brackets" in caption) == ("[0.400, 0.600]" in text and "segmentation" in columns)
    lines = report(one).splitlines()
    assert len([line for line in lines if line.startswith("|  |")]) == intervals


def test_nuclei_without_type_are_told_of_once():
    part = result(0.5, types=[("round", 0.75)])
    part["scores"]["true_nuclei_without_type"] = 34
    records = [record("mine", consep=part), record("theirs", consep=part), record("otsu", consep=result(0.25))]
    words = "consep: true nuclei without a known type: 34 of 1,234."
    assert report(records[0]).count(words) == comparison(records).count(words) == 1
    assert "known type" not in report(records[2])


def test_other_tiles_are_not_compared():
    one, two = record("mine", consep=result(0.5)), record("theirs", consep=result(0.5, tiles=("a", "c")))
    with pytest.raises(ValueError, match=r"mine and theirs .* different tiles of consep \(such as b\)"):
        comparison([one, two])


def test_names_from_outside_stay_in_their_cells():
    """Type names and file names are those of strangers: no tag, no bar and no line break of theirs may have effect."""
    names = ["a|b", "<script>alert(1)</script>", "two\nlines", "\x1b[31mred", "a > b & c"]
    assert markdown_table(["type"], [[name] for name in names])[2:] == [
        "| a\\|b |",
        "| &lt;script>alert(1)&lt;/script> |",
        "| two\\nlines |",
        "| \\x1b[31mred |",
        "| a > b & c |",
    ]
