"""A web page that finds the nuclei in a picture: the interface. view.py makes what it shows.

    pip install . && pip install -r examples/space/requirements.txt
    python examples/space/app.py

The checkpoint is cfsam-tiny, or the bundled checkpoint, folder or Hub id that the variable CFSAM_CHECKPOINT names. The
page loads nothing from other servers and sends nothing to them.
"""

import contextlib
import html
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

# Both libraries read these when they are imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
import numpy as np
import pandas as pd
import view
from PIL import Image

from cfsam_hf import NucleiResult
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import describe
from cfsam_hf.model.pictures import TooManyPixelsError, read_rgb
from cfsam_hf.model.pixel_size import PixelSize, read_pixel_size
from cfsam_hf.model.pixel_size import describe as describe_size
from cfsam_hf.outputs import type_styles
from cfsam_hf.slides.bundled import demo_picture, demo_slide

# 4,096 x 4,096, both as given and at the model's pixel size: some minutes on two cores.
MAX_PIXELS = 2**24
MAX_FILE_SIZE = "100mb"
IMAGE_ENDINGS = [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"]
# Seconds after which a visitor's picture, results and files are deleted.
FORGET_AFTER = 3600
WAITING_CALLS = 32

LIMITS = (
    f"Up to {MAX_PIXELS / 1e6:.0f} megapixels (4,096 x 4,096) at the model's pixel size, and {MAX_FILE_SIZE[:-2]} MB."
)
WAY_OUT = "cut a part out of it, or use `cfsam segment` on a machine of your own"
# The advice of the package's errors, which addresses people who write Python, in the words of this page.
WAYS_OUT = {
    "check the mpp or raise the limit": f"check the pixel size, {WAY_OUT}",
    "choose one with page=N": "save the one you mean as a separate file",
    "pass mpp=...": "give the pixel size",
}
DEMO_NOTE = (
    "The demo picture is a part of CMU-1-Small-Region, a slide of OpenSlide's test data (CC0): H&E of **skin**. "
)
# Shown with results that have types.
DEMO_TYPES_NOTE = (
    "A checkpoint knows the types of the tissue it was trained on (`cfsam-tiny`: colon), so ignore the types here."
)
HEAD = (
    "# Nuclei in H&E tissue\n"
    "Finds and outlines every nucleus, with [CF-SAM](https://arxiv.org/abs/2603.28027), and tells the types that the "
    "checkpoint knows. "
    "A research tool, **not for diagnosis**."
)
PRESS = "Press **Find nuclei**."
WELCOME = "Drop a picture, or take the demo picture; then press **Find nuclei**."
LOOK = {
    # Fonts of the reader's own system.
    "theme": gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ),
    "footer_links": ["api", "gradio"],
}


@dataclass(frozen=True)
class Visit:
    """One visitor's picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        name: file name.
        note: what the page says about it.
        types_note: what the page adds if its nuclei get types.
        stated: the pixel size that its file states.
        result: its nuclei, once they are found.
        folder: for the files to download; deleted with the visit.
    """

    image: np.ndarray
    name: str
    note: str = ""
    types_note: str = ""
    stated: PixelSize | None = None
    result: NucleiResult | None = None
    folder: tempfile.TemporaryDirectory = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="cfsam-"))


def open_picture(path: str) -> Visit:
    """Reads an uploaded file.

    Raises:
        gr.Error: it is not a picture that the page accepts; says why.
    """
    name = Path(path).name
    try:
        image, stated = read_rgb(path, MAX_PIXELS), read_pixel_size(path)
        note = "" if stated is None else f"The file states {describe_size(stated)}."
        return Visit(image, name, note, stated=stated)
    except TooManyPixelsError as error:
        most = f"{MAX_PIXELS / 1e6:.0f} megapixels, the most this page accepts"
        raise page_error(f"the picture {name} has more than {most}: {WAY_OUT}") from error
    except (OSError, TypeError, ValueError, MemoryError) as error:
        raise page_error(describe(error).replace(repr(path), name).replace(path, name)) from error


def open_demo() -> Visit:
    """The part of a slide that `cfsam segment --demo` segments."""
    image, size = demo_picture()
    note = DEMO_NOTE if size is None else f"{DEMO_NOTE}The file states {describe_size(size)}."
    return Visit(image, f"{demo_slide().stem}.png", note, DEMO_TYPES_NOTE, size)


def find_nuclei(pipe: Callable, visit: Visit | None, mpp: str) -> tuple[Visit, list[str]]:
    """Runs the model on the visitor's picture and returns the visit with its nuclei, and the pipeline's warnings.

    Args:
        pipe: the pipeline.
        visit: the picture.
        mpp: the pixel size as it was typed; if it is empty, the one that the file states is used.

    Raises:
        gr.Error: there is no picture, the pixel size is impossible, or the picture is too large; says which.
    """
    if visit is None:
        raise page_error("There is no picture yet: drop one, or take the demo picture.")
    try:
        size = parse_mpp(mpp)
        if size is None and visit.stated is not None:
            size = visit.stated.mpp
        with recorded_warnings() as notes:
            result = pipe(visit.image, mpp=size, max_pixels=MAX_PIXELS, progress=False)
    except (OSError, TypeError, ValueError, MemoryError) as error:
        raise page_error(describe(error)) from error
    result.image_name = visit.name
    return replace(visit, result=result), notes


def parse_mpp(text: str) -> float | None:
    """The pixel size as it was typed, with a point or a comma; None if the field is empty.

    Raises:
        ValueError: it is not a number.
    """
    try:
        return float(text.replace(",", ".")) if text.strip() else None
    except ValueError:
        raise ValueError(f"the pixel size must be a number such as 0.25, got {text!r}") from None


def page_error(text: str) -> gr.Error:
    """The message as the page shows it, with advice that applies here; names in it cannot act as HTML."""
    return gr.Error(html.escape(in_page_words(text), quote=False), duration=None, print_exception=False)


def in_page_words(text: str) -> str:
    """A message of the package in the words of this page, as a sentence."""
    for words, ours in WAYS_OUT.items():
        before, found, after = text.partition(words)
        if found:
            # The rest of the clause explains the words that are replaced.
            text = before + ours + after[len(after.split(";")[0]) :]
    # The name of a file or an option keeps its case at the beginning of a sentence.
    first = text.split(maxsplit=1)[0]
    is_word = first.isalpha() and first != "mpp"
    return (text[0].upper() if is_word else text[0]) + text[1:].rstrip(".") + "."


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Yields a list that holds the distinct warnings of the block, as sentences, when the block has ended."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += dict.fromkeys(in_page_words(str(w.message)) for w in caught if issubclass(w.category, UserWarning))


def build(pipe: Callable) -> gr.Blocks:
    """The page for a pipeline, which runs once for each press of the button and never otherwise."""
    cleaning = (FORGET_AFTER, FORGET_AFTER)
    with gr.Blocks(title="Nuclei", analytics_enabled=False, delete_cache=cleaning, fill_width=True) as page:
        visit = gr.State(time_to_live=FORGET_AFTER)
        gr.Markdown(HEAD)
        with gr.Row():
            with gr.Column(scale=3, min_width=260):
                file = gr.File(label="Picture", file_types=IMAGE_ENDINGS, height=140)
                # A number field would show 0 for nothing and keep its last value when it is emptied.
                mpp = gr.Textbox(
                    label="Pixel size (mpp)", info="µm per pixel: 0.25 at 40x, 0.5 at 20x", placeholder="unknown"
                )
                start = gr.Button("Find nuclei", variant="primary")
                demo = gr.Button("Take the demo picture")
                gr.Markdown(LIMITS)
                with gr.Group(visible=False) as filters:
                    types = gr.CheckboxGroup(label="Types")
                    score = gr.Slider(0, 1, 0, step=0.01, label="Lowest score", buttons=[])
                    opacity = gr.Slider(0, 1, 1, step=0.05, label="Opacity", buttons=[])
                    fill = gr.Checkbox(label="Fill the nuclei")
            with gr.Column(scale=8, min_width=400):
                picture = gr.Image(
                    label="Nuclei", show_label=False, interactive=False, buttons=["download", "fullscreen"]
                )
                notes = gr.Markdown(WELCOME)
            with gr.Column(scale=3, min_width=280), gr.Column(visible=False) as outcome:
                chart = gr.HTML()
                with gr.Row():
                    geojson = gr.DownloadButton("GeoJSON", size="md", min_width=100)
                    parquet = gr.DownloadButton("Parquet", size="md", min_width=100)
        with gr.Column(visible=False) as details:
            table_note = gr.Markdown()
            table = gr.Dataframe(interactive=False, max_height=320, show_label=False)

        def begin(new: Visit | None, note: str) -> list:
            hidden = gr.update(visible=False)
            note = f"{note} {new.note}" if new is not None and new.stated is not None else note
            return [new, None if new is None else new.image, note, hidden, hidden, hidden]

        def run_model(visit: Visit | None, mpp: str) -> list:
            found, warned = find_nuclei(pipe, visit, mpp)
            styles = type_styles(found.result)
            choices = gr.update(choices=[(s.name, s.type_id) for s in styles], value=[s.type_id for s in styles])
            visible = gr.update(visible=True)
            types_note = found.types_note if found.result.type_names else ""
            text = "\n\n".join(filter(None, [found.note, types_note, *warned]))
            return [found, text, choices, 0, visible, visible, visible]

        shown = [visit, picture, notes, filters, outcome, details]
        # Cleared first, so that nothing older looks like the result of a file that cannot be read.
        upload = file.upload(lambda: begin(None, WELCOME), None, shown, api_visibility="private")
        upload.then(
            lambda path: begin(open_picture(path), PRESS), file, shown, api_name="upload", show_progress_on=picture
        )
        file.clear(lambda: begin(None, WELCOME), None, shown, api_name="clear")
        # The file of the demo states its pixel size.
        demo.click(lambda: [None, "", *begin(open_demo(), PRESS)], None, [file, mpp, *shown], api_name="demo")
        # One call of the model at a time, for all visitors together.
        found = start.click(
            run_model,
            [visit, mpp],
            [visit, notes, types, score, filters, outcome, details],
            api_name="find",
            concurrency_limit=1,
            show_progress_on=picture,
        )
        # A single function writes each output, so that a slow answer never mixes with the one for later filters.
        quick = {"show_progress": "hidden", "trigger_mode": "always_last"}
        pictured = [visit, types, score, opacity, fill], picture
        reported = [visit, types, score], [chart, geojson, parquet, table, table_note]
        gr.on([types.input, score.input, opacity.input, fill.input], draw, *pictured, api_name="draw", **quick)
        gr.on([types.input, score.input], report, *reported, api_name="report", **quick)
        found.success(draw, *pictured, show_progress="hidden", api_visibility="private")
        found.success(report, *reported, show_progress="hidden", api_visibility="private")
    return page.queue(max_size=WAITING_CALLS, default_concurrency_limit=4)


def draw(visit: Visit | None, types: list[int], score: float, opacity: float, fill: bool) -> Image.Image:
    """The picture of the nuclei that pass the filters."""
    return view.overlay(shown_nuclei(visit, types, score), visit.image, opacity, fill)


def report(visit: Visit | None, types: list[int], score: float) -> tuple[str, str, str, pd.DataFrame, str]:
    """Chart, GeoJSON file, Parquet file and table of the nuclei that pass the filters, and a note on the table."""
    result, found = shown_nuclei(visit, types, score), len(visit.result)
    geojson, parquet = view.write_downloads(result, visit.folder.name, is_part=len(result) < found)
    rows = view.table(result)
    note = f"The first {len(rows):,} of {len(result):,} nuclei; the files hold all." if len(rows) < len(result) else ""
    return view.chart(result, found), str(geojson), str(parquet), rows, note


def shown_nuclei(visit: Visit | None, types: list[int], score: float) -> NucleiResult:
    """The visitor's nuclei that pass the filters.

    Raises:
        gr.Error: there are none yet.
    """
    if visit is None or visit.result is None:
        raise page_error("There are no nuclei yet: press “Find nuclei” first.")
    return view.filtered(visit.result, score, types)


def main() -> None:
    """Loads the model, once, and serves the page."""
    pipe = load_pipeline(os.environ.get("CFSAM_CHECKPOINT") or None, None)
    build(pipe).launch(max_file_size=MAX_FILE_SIZE, ssr_mode=False, enable_monitoring=False, **LOOK)


if __name__ == "__main__":
    main()
