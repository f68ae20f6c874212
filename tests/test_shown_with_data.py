"""Why: commands and code of the docs that need public data must run as shown too, where the data is available."""

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfsam_hf import bundled_checkpoint
from cfsam_hf.commands import terminal
from cfsam_hf.data.registry import list_tiles
from cfsam_hf.data.splits import read_split

from . import REPOSITORY
from .markdown_pages import Block, blocks_of, commands_of, page_name

# Whole data sets are read, and the network runs on validation tiles.
pytestmark = pytest.mark.slow

PAGES = ("datasets", "evaluation", "accuracy")
# What these name is not among the data: official test tiles, PanNuke, runs of training, and MoNuSeg as a whole.
WITHOUT_DATA = ("--part test", "--protocol", "examples/studies/", " MoNuSeg", "path=MoNuSeg")


def data_blocks(language: str) -> list[Block]:
    """The blocks of a language that need data, in the order of the pages, which they rely on."""
    pages = [REPOSITORY / "docs" / f"{name}.md" for name in PAGES]
    return [b for page in pages for b in blocks_of(page) if b.language == language and b.needs == "data"]


def runnable_commands() -> list[str]:
    """The commands of the blocks whose data is available."""
    commands = [shlex.join(words) for block in data_blocks("bash") for words in commands_of(block)]
    return [text for text in commands if not any(part in text for part in WITHOUT_DATA)]


@pytest.fixture(scope="module")
def folder(real_data, tmp_path_factory) -> Path:
    """A folder with the data, a checkpoint and label maps where the blocks expect them."""
    folder = tmp_path_factory.mktemp("data_blocks")
    (folder / "CoNSeP").symlink_to(real_data / "consep")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    shutil.copytree(bundled_checkpoint(), folder / "runs" / "sam-b" / "model")
    (folder / "folder_of_label_maps").mkdir()
    split = read_split(REPOSITORY / "examples" / "splits" / "consep.json")
    for record in list_tiles("consep", real_data / "consep"):
        if record.id in split.validation:
            labels = record.load().instance_map.astype(np.uint16)
            Image.fromarray(labels).save(folder / "folder_of_label_maps" / f"{record.id}.png")
    return folder


def test_the_pages_show_commands_that_need_data():
    assert {text.split()[1] for text in runnable_commands()} == {"data", "evaluate"}
    assert len(data_blocks("python")) == 2


@pytest.mark.parametrize("text", runnable_commands())
def test_a_command_runs(text, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert terminal.main(shlex.split(text)[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


@pytest.mark.parametrize("block", data_blocks("python"), ids=str)
def test_python_runs(block, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", os.fspath(tmp_path))
    assert (folder / "shards").is_dir(), f"{page_name(block.page)} converts the data set before it reads it"
    exec(compile(block.code, str(block), "exec"), {"__name__": "snippet"})
