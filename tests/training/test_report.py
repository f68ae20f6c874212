"""Why: the report of a run must be self-contained, match the log, and cope with anything that is missing."""

import base64
import html
import io
import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from cfsam_hf.training import make_recipe
from cfsam_hf.training.report import write_report
from cfsam_hf.training.run_log import RunLog, read_log, validation_history


class Elements(HTMLParser):
    """Tags with their attributes; that every one is closed."""

    VOID = ("meta", "img", "line", "polyline", "circle")

    def __init__(self, page: str):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def recipe(tmp_path):
    return make_recipe(data=["reader=a,path=b"], output_dir=str(tmp_path), base="<my> base")


def record(step: int, loss: float) -> dict:
    times = {"tiles_per_second": 2.5, "data_wait_share": 0.01, "learning_rate": 1e-3, "gradient_norm": 1.0}
    return {"step": step, "loss": loss, "hv_mse": loss / 2, "initial_hv_mse": loss / 3, **times}


def test_a_report_holds_all_that_it_shows(tmp_path, recipe):
    log = RunLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(record(step, 10.0 / step))
    log.write({"step": 5, "validation": {"set <1>": {"pq_mean_over_images": 0.1234, "aji_mean_over_images": None}}})
    (tmp_path / "pictures").mkdir()
    for step in (1, 3, 5):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(tmp_path / "pictures" / f"step-{step:08d}.png")
    page = write_report(tmp_path, recipe, ["set <1>: 2 tiles"]).read_text()
    elements = Elements(page).found
    assert not any("href" in attributes or "//" in attributes.get("src", "")[:8] for _, attributes in elements)
    assert "<script" not in page
    assert "set <1>" not in page
    assert "set &lt;1&gt;" in page
    assert "0.1234" in page
    images = [attributes["src"] for tag, attributes in elements if tag == "img"]
    reds = [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).getpixel((0, 0))[0] for source in images
    ]
    assert reds == [1, 3, 5]
    for name, value in recipe.to_dict().items():
        assert f"<td>{name}</td><td>{html.escape(str(value))}</td>" in page


def test_a_report_of_a_run_without_anything(tmp_path, recipe):
    page = write_report(tmp_path, recipe, []).read_text()
    Elements(page)
    assert "No step was logged" in page
    assert "no validation tiles" in page


def test_the_log_forgets_what_comes_after_the_checkpoint_and_half_lines(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1.0})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3]
    RunLog(tmp_path, 2).write({"step": 3, "loss": 2.0})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 2.0}]


def test_history_of_a_score_is_its_mean_over_the_data_sets(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write({"step": 1, "validation": {"a": {"pq": 0.2}, "b": {"pq": 0.4}}})
    log.write({"step": 2, "validation": {"a": {"pq": float("nan")}, "b": {"pq": 0.4}}})
    assert validation_history(tmp_path, "pq") == {1: pytest.approx(0.3)}
