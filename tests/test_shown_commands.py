"""Why: the commands of README and docs that need no data, download or network must run as shown."""

import shlex
from pathlib import Path

import pytest
import skimage.data
import tifffile
from PIL import Image

from cfsam_hf.commands import terminal
from cfsam_hf.slides import demo_slide, open_slide

from .markdown_pages import PAGES, blocks_of, commands_of

# The demo runs in tests/commands/test_end_to_end.py, and README's marked commands in .ci/run.
RUN_ELSEWHERE = "--demo"


def shown_commands() -> list[tuple[str, ...]]:
    """Each distinct `cfsam` command of the pages, in their order."""
    blocks = (block for page in PAGES for block in blocks_of(page) if block.language == "bash" and not block.needs)
    commands = (tuple(words) for block in blocks for words in commands_of(block))
    return list(dict.fromkeys(words for words in commands if words[0] == "cfsam" and RUN_ELSEWHERE not in words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with small images and a small slide where the commands expect them."""
    folder = tmp_path_factory.mktemp("commands")
    tissue = skimage.data.immunohistochemistry()
    for name in ("tile.png", "tiles/a.png", "more_tiles/b.png", "slides/case/c.tif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tissue[-96:, -96:]).save(folder / name)
    with open_slide(demo_slide()) as demo, tifffile.TiffWriter(folder / "slide.svs") as slide:
        region = demo.read_region(x=900, y=1000, width=256, height=256)
        options = {"tile": (64, 64), "resolutionunit": "CENTIMETER"}
        slide.write(region, subifds=1, resolution=(20_000, 20_000), **options)  # 0.5 micrometres
        slide.write(region[::4, ::4], subfiletype=1, resolution=(5_000, 5_000), **options)
    return folder


def test_the_pages_show_commands():
    assert {words[1] for words in shown_commands()} == {"segment", "info", "export"}


@pytest.mark.parametrize("words", shown_commands(), ids=shlex.join)
def test_a_shown_command_runs(words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert terminal.main(list(words[1:])) == 0
    out, err = capsys.readouterr()
    assert out
    assert "error" not in err
