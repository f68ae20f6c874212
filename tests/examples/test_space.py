"""Why: what the page for a Space shows and offers must follow its filters, and its requirements must install."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

from cfsam_hf.drawing.overlay import draw_contours, render_overlay
from cfsam_hf.outputs import summary_rows

from .. import REPOSITORY
from ..export_cases import TYPE_COLORS, TYPE_NAMES, blob_map, make_result, small_map
from ..test_packaging import declared

SPACE = REPOSITORY / "examples" / "space"
ALL_TYPES = (1, 2, 3)


@pytest.fixture
def view(load_example):
    return load_example("space/view")


def test_filters_keep_the_right_nuclei_and_number_them_anew(view):
    result = make_result(blob_map())
    before = result.table.copy(), result.instance_map.copy()
    shown = view.filtered(result, 0.9, (1, 3))
    kept = result.table[(result.table["score"] >= 0.9) & result.table["type"].isin([1, 3])]
    assert 0 < len(kept) < len(result)
    assert shown.table["id"].tolist() == list(range(1, len(kept) + 1))
    pd.testing.assert_frame_equal(shown.table.drop(columns="id"), kept.drop(columns="id").reset_index(drop=True))
    for new, old in zip(shown.table["id"], kept["id"], strict=True):
        assert np.array_equal(shown.instance_map == new, result.instance_map == old)
    assert shown.instance_map.max() == len(kept)
    assert shown.type_names == {1: TYPE_NAMES[1], 3: TYPE_NAMES[3]}
    pd.testing.assert_frame_equal(result.table, before[0])
    assert np.array_equal(result.instance_map, before[1])


def test_without_filters_all_is_as_it_was(view):
    result = make_result(small_map())
    shown = view.filtered(result, 0, ALL_TYPES)
    pd.testing.assert_frame_equal(shown.table, result.table)
    assert np.array_equal(shown.instance_map, result.instance_map)
    assert (shown.type_names, shown.type_colors) == (result.type_names, result.type_colors)


@pytest.mark.parametrize("typed", [True, False])
def test_everything_can_be_filtered_out(view, typed, tmp_path):
    result = view.filtered(make_result(small_map(), typed=typed), 1.1, ALL_TYPES)
    nothing = view.filtered(result, 0, ())
    image = np.full((*small_map().shape, 3), 200, np.uint8)
    assert len(nothing) == 0
    assert not nothing.instance_map.any()
    assert view.overlay(nothing, image, fill=True).size == render_overlay(result, image).size
    assert len(view.table(nothing)) == 0
    assert "of 8 nuclei shown" in view.chart(nothing, 8)
    geojson, parquet = view.write_downloads(nothing, tmp_path, is_part=True)
    assert json.loads(geojson.read_text())["features"] == []
    assert len(pd.read_parquet(parquet)) == 0


def test_untyped_nuclei_have_the_one_type_0(view):
    result = make_result(small_map(), typed=False)
    assert len(view.filtered(result, 0, (0,))) == len(result)
    assert ">nucleus<" in view.chart(view.filtered(result, 0, (0,)), len(result))


def test_the_picture_is_that_of_the_package(view):
    result, image = make_result(blob_map()), np.full((160, 160, 3), 180, np.uint8)
    assert np.array_equal(np.asarray(view.overlay(result, image)), np.asarray(render_overlay(result, image)))


def test_opacity_goes_from_the_image_alone_to_the_drawing(view):
    result, image = make_result(blob_map()), np.full((160, 160, 3), 180, np.uint8)
    drawn = np.asarray(render_overlay(result, image)).astype(float)
    picture = {opacity: np.asarray(view.overlay(result, image, opacity)) for opacity in (0, 0.5)}
    changed = (draw_contours(result, image) != 180).any(axis=2)
    top = np.flatnonzero((picture[0] == 180).all(axis=2).any(axis=1))[0]
    part = np.s_[top : top + len(changed), : changed.shape[1]]
    assert (picture[0][part] == 180).all()
    assert changed.mean() > 0.05
    assert np.abs(picture[0.5][part] - (drawn[part] + 180) / 2).max() <= 0.5
    # Title and legend do not fade.
    assert np.array_equal(picture[0][:top], drawn[:top])
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        view.overlay(result, image, 1.5)


def test_filled_nuclei_have_the_colour_of_their_type_and_show_what_is_in_them(view):
    result = make_result(small_map())
    image = np.random.default_rng(0).integers(0, 256, (*small_map().shape, 3), dtype=np.uint8)
    picture = view.tinted(result, image)
    for row in result.table.itertuples():
        inside = small_map() == row.id
        expected = 0.55 * image[inside] + 0.45 * np.array(TYPE_COLORS[row.type])
        assert np.abs(picture[inside] - expected).max() <= 0.5
    assert np.array_equal(picture[small_map() == 0], image[small_map() == 0])


def test_the_chart_says_what_the_summary_says(view):
    result = make_result(blob_map())
    text = html.unescape(view.chart(result, len(result)))
    everything, *rows = summary_rows(result)
    assert f">{everything['count']}</span> nuclei<" in text
    assert f"{everything['density_per_mm2']:,.0f} /mm² on 0.0016 mm²" in text
    for row in rows:
        assert f">{row['type_name']}<" in text
        assert f"<b>{row['count']}</b>" in text
        assert f" · {row['density_per_mm2']:,.0f} /mm²<" in text
        assert "background: #{:02x}{:02x}{:02x}".format(*TYPE_COLORS[row["type"]]) in text
    widths = [float(width) for width in re.findall(r"width: ([\d.]+)%", text)]
    counts = np.array([row["count"] for row in rows])
    assert np.allclose(widths, 100 * counts / counts.max(), atol=0.05)


def test_the_chart_without_pixel_size_and_with_a_hostile_name(view):
    result = make_result(small_map(), mpp=None)
    result.type_names[2] = "<script>alert(1)</script>"
    text = view.chart(result, len(result))
    assert "pixel size unknown: no densities" in text
    assert "/mm²" not in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_table_is_short_and_holds_what_is_known(view, monkeypatch):
    monkeypatch.setattr(view, "TABLE_ROWS", 3)
    table = view.table(make_result(small_map()))
    assert table["id"].tolist() == [1, 2, 3]
    assert list(table) == list(view.SHOWN_COLUMNS)
    assert table["score"].tolist() == [0.7, 0.85, 0.9]
    unknown = view.table(make_result(small_map(), typed=False, mpp=None))
    assert set(view.SHOWN_COLUMNS) - set(unknown) == {"type_probability", "area_um2"}


def test_the_files_hold_the_nuclei_that_are_shown(view, tmp_path):
    result = make_result(blob_map())
    shown = view.filtered(result, 0, (2,))
    geojson, parquet = view.write_downloads(shown, tmp_path, is_part=True)
    assert (geojson.name, parquet.name) == ("tile é_filtered.geojson", "tile é_filtered.parquet")
    record = json.loads(geojson.read_text(encoding="utf-8"))
    assert {feature["properties"]["classification"]["name"] for feature in record["features"]} == {TYPE_NAMES[2]}
    assert record["metadata"]["nuclei"] == len(record["features"]) == len(shown)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), shown.table)
    assert [path.name for path in view.write_downloads(result, tmp_path, is_part=False)] == [
        "tile é.geojson",
        "tile é.parquet",
    ]


def space_pins() -> dict[str, Requirement]:
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name.replace("_", "-"): pin for pin in pins}


def test_the_spaces_requirements_are_those_of_the_package_as_tested():
    pins = space_pins()
    needed = declared()
    assert set(pins) == {r.name.replace("_", "-") for r in needed} | {"gradio"}
    for requirement in needed:
        [pin] = pins[requirement.name.replace("_", "-")].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version)
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").replace("_", "-").splitlines()
    assert {str(pin).replace("_", "-") for name, pin in pins.items() if name not in ("gradio", "pillow")} <= set(
        constraints
    )


def test_the_front_matter_is_what_the_hub_reads():
    card = SpaceCard.load(SPACE / "README.md")
    settings = card.data.to_dict()
    assert (settings["sdk"], settings["app_file"]) == ("gradio", "app.py")
    assert f"=={settings['sdk_version']}" == str(space_pins()["gradio"].specifier)
    assert settings["python_version"] == "3.11"
    assert len(settings["short_description"]) <= 60
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {settings["colorFrom"], settings["colorTo"]} <= colors


def test_limits_and_variable_are_stated():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    code = (SPACE / "app.py").read_text(encoding="utf-8")
    assert "MAX_PIXELS = 2**24\n" in code
    assert f"{2**24:,} pixels" in text
    assert 'MAX_FILE_SIZE = "100mb"' in code
    assert "100 MB" in text
    assert "WAITING_CALLS = 32\n" in code
    assert re.search(r"\b32\b", text)
    assert "CFSAM_CHECKPOINT" in code
    assert "CFSAM_CHECKPOINT" in text
