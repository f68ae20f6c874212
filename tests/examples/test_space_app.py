"""Why: a visitor of the page for a Space gets results, sentences for errors, and filters that never run the model."""

import json
import re
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from cfsam_hf import CfSamImageProcessor, NucleiSegmentationPipeline

from ..painted_model import PaintedModel, paint, painted_config

# A server each.
pytestmark = pytest.mark.slow


@pytest.fixture
def app(load_example, monkeypatch):
    """The interface, where gradio is installed."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -r examples/space/requirements.txt")
    # As a script it finds view.py beside it.
    monkeypatch.setitem(sys.modules, "view", load_example("space/view"))
    return load_example("space/app")


class CountingPipe:
    """The pipeline with a painted model; counts its calls, and how many of them ran at once."""

    def __init__(self, seconds: float = 0.0):
        processor = CfSamImageProcessor(tile_size=64, tile_overlap=32)
        model = PaintedModel(painted_config())
        self._pipe = NucleiSegmentationPipeline(model, image_processor=processor, device="cpu")
        self._lock, self._running, self._seconds = threading.Lock(), 0, seconds
        self.calls, self.at_once = 0, 0

    def __call__(self, image, **options):
        with self._lock:
            self.calls += 1
            self._running += 1
            self.at_once = max(self.at_once, self._running)
        time.sleep(self._seconds)
        try:
            return self._pipe(image, **options)
        finally:
            with self._lock:
                self._running -= 1


@pytest.fixture
def pipe():
    return CountingPipe()


@pytest.fixture
def page(app, pipe):
    """The page, served on loopback; gives its address."""
    blocks = app.build(pipe)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, **app.LOOK)
    yield url
    blocks.close(verbose=False)


@pytest.fixture
def client(page):
    return new_client(page)


@pytest.fixture
def painted(tmp_path):
    """A file with a painted picture, and the types of its nuclei."""
    image, _, types = paint(200, 260)
    path = tmp_path / "painted tile.png"
    PIL.Image.fromarray(image).save(path)
    return path, types


def new_client(url):
    return pytest.importorskip("gradio_client").Client(url, verbose=False)


def upload(client, path):
    handle_file = pytest.importorskip("gradio_client").handle_file
    return client.predict(handle_file(path), api_name="/upload")


def file_of(answer) -> Path:
    """The file that a component's answer holds, whatever its form."""
    answer = answer.get("value", answer) if isinstance(answer, dict) else answer
    return Path(answer["path"] if isinstance(answer, dict) else answer)


def test_filters_act_on_everything_and_never_run_the_model(client, pipe, painted):
    path, types = painted
    upload(client, path)
    client.predict("0.25", api_name="/find")
    assert pipe.calls == 1
    chart, geojson, parquet, table, note = client.predict([1, 2], 0, api_name="/report")
    assert f">{len(types)}</span> nuclei<" in chart
    assert file_of(geojson).name.startswith("painted tile") or "painted_tile" in file_of(geojson).name
    assert len(pd.read_parquet(file_of(parquet))) == len(table["data"]) == len(types)
    assert note == ""
    only = int((types == 2).sum())
    assert 0 < only < len(types)
    chart, geojson, parquet, table, _ = client.predict([2], 0, api_name="/report")
    assert f">{only}</span> of {len(types)} nuclei shown<" in chart
    assert file_of(parquet).stem.endswith("_filtered")
    assert len(json.loads(file_of(geojson).read_text())["features"]) == len(table["data"]) == only
    scores = pd.read_parquet(file_of(parquet))["score"]
    *_, parquet, _, _ = client.predict([2], float(scores.median()), api_name="/report")
    assert 0 < len(pd.read_parquet(file_of(parquet))) <= only
    pictures = [
        np.asarray(PIL.Image.open(file_of(client.predict(chosen, 0, opacity, fill, api_name="/draw"))), dtype=int)
        for chosen, opacity, fill in [([1, 2], 1, False), ([1, 2], 0, False), ([1, 2], 1, True), ([2], 1, False)]
    ]
    for other in pictures[1:]:
        assert np.abs(other - pictures[0]).max() > 50
    assert pipe.calls == 1


def test_a_visitor_sees_only_what_is_theirs(page, client, painted):
    upload(client, painted[0])
    client.predict("0.25", api_name="/find")
    with pytest.raises(Exception, match="There are no nuclei yet"):
        new_client(page).predict([], 0, api_name="/report")


def test_a_new_picture_has_no_old_result(client, painted):
    upload(client, painted[0])
    client.predict("0.25", api_name="/find")
    upload(client, painted[0])
    with pytest.raises(Exception, match="There are no nuclei yet"):
        client.predict([1, 2], 0, 1, False, api_name="/draw")


def test_bad_uploads_have_a_sentence(app, client, tmp_path, monkeypatch):
    cases = {
        "empty.png": (b"", "Cannot read empty.png: the file is empty, get it again."),
        "text.png": (b"not a picture", "Cannot read text.png as an image: not an image"),
        "cut.tif": (b"II*\0\x08\0\0\0", "Cannot read cut.tif as an image"),
    }
    for name, (content, sentence) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Exception, match=f"^{re.escape(sentence)}") as caught:
            upload(client, tmp_path / name)
        assert "/" not in str(caught.value)
    pages = [PIL.Image.new("RGB", (40, 30), color) for color in ("red", "green")]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(Exception, match=r"holds 2 pictures .*; save the one you mean as a file of its own\.$"):
        upload(client, tmp_path / "pages.tif")
    monkeypatch.setattr(app, "MAX_PIXELS", 1000)
    pages[0].save(tmp_path / "large.png")
    with pytest.raises(Exception, match=r"^The picture large\.png has more than .* megapixels.*cut a part out of it"):
        upload(client, tmp_path / "large.png")


def test_bad_pixel_sizes_have_a_sentence(app, client, pipe, painted, monkeypatch):
    with pytest.raises(Exception, match="There is no picture yet"):
        client.predict("0.25", api_name="/find")
    upload(client, painted[0])
    with pytest.raises(Exception, match=r"^The pixel size must be a number such as 0\.25, got 'small'\.$"):
        client.predict("small", api_name="/find")
    with pytest.raises(Exception, match=r"^mpp must be micrometres per pixel from 0\.01 to 10"):
        client.predict("-1", api_name="/find")
    monkeypatch.setattr(app, "MAX_PIXELS", 200 * 260)
    with pytest.raises(Exception, match=r"more than max_pixels=52000; check the pixel size, cut a part"):
        client.predict("1", api_name="/find")


def test_what_the_model_warns_of_is_on_the_page(client, pipe, painted):
    upload(client, painted[0])
    notes = client.predict("", api_name="/find")[0]
    assert notes.startswith("mpp is not given and no file states it: ")
    assert notes.endswith("; give the pixel size.")
    chart = client.predict([1, 2], 0, api_name="/report")[0]
    assert "pixel size unknown: no densities" in chart
    assert client.predict("0,25", api_name="/find")[0] == ""


def test_the_pixel_size_of_the_file_is_used(client, tmp_path):
    image = PIL.Image.fromarray(paint(200, 260)[0])
    image.save(tmp_path / "a.png", dpi=(25_400 / 0.5, 25_400 / 0.5))
    notes = upload(client, tmp_path / "a.png")[1]
    assert "The file states 0.5 micrometres per pixel (PNG resolution)." in notes
    client.predict("", api_name="/find")
    chart = client.predict([1, 2], 0, api_name="/report")[0]
    assert "/mm² on 0.013 mm²" in chart


def test_the_name_of_a_picture_cannot_act_as_html(client, tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(Exception, match="Cannot read") as caught:
        upload(client, path)
    assert "<img" not in str(caught.value)


def test_the_demo_picture_is_real_tissue_of_a_known_pixel_size(client):
    _, mpp, picture, notes, *_ = client.predict(api_name="/demo")
    pixels = np.asarray(PIL.Image.open(file_of(picture)).convert("RGB"))
    assert pixels.shape == (460, 480, 3)
    assert pixels.std() > 20
    assert mpp == ""
    assert "0.499" in notes
    assert "ignore the types" not in notes
    notes = client.predict("", api_name="/find")[0]
    assert "assumed" not in notes
    # The painted model has types.
    assert "ignore the types" in notes


def test_the_model_runs_for_one_visitor_at_a_time(app, painted):
    pipe = CountingPipe(seconds=0.5)
    blocks = app.build(pipe)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        clients = [new_client(url) for _ in range(3)]
        for client in clients:
            upload(client, painted[0])
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda client: client.predict("0.25", api_name="/find"), clients))
    finally:
        blocks.close(verbose=False)
    assert (pipe.calls, pipe.at_once) == (3, 1)


def test_the_page_takes_nothing_from_elsewhere(app, page):
    def get(path: str) -> str:
        with urllib.request.urlopen(page + path) as answer:
            return answer.read().decode()

    index, theme = get(""), get("theme.css")
    for element in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", index):
        for address in re.findall(r"(?:src|href)=\"(https?:)?//([^\"/]+)", element):
            assert address[1] in page
    assert re.findall(r"url\(\s*['\"]?(?:https?:)?//", theme) == []
    assert "@import" not in theme
    config = json.loads(get("config"))
    assert not config["analytics_enabled"]


@pytest.mark.parametrize("checkpoint", [None, "some/folder"])
def test_the_model_is_loaded_once_from_where_the_variable_says(app, monkeypatch, checkpoint):
    loaded, launched = [], []
    monkeypatch.setattr(app, "load_pipeline", lambda *arguments: loaded.append(arguments) or CountingPipe())
    monkeypatch.setattr(app.gr.Blocks, "launch", lambda self, **options: launched.append(options))
    if checkpoint is None:
        monkeypatch.delenv("CFSAM_CHECKPOINT", raising=False)
    else:
        monkeypatch.setenv("CFSAM_CHECKPOINT", checkpoint)
    app.main()
    assert loaded == [(checkpoint, None)]
    assert launched[0]["max_file_size"] == "100mb"
