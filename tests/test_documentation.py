"""Why: what README and docs show must run, and what they name must exist: code, commands, options, files, links."""

import ast
import configparser
import importlib
import re
from functools import cache
from pathlib import Path

import pytest
import skimage.data
import tifffile
from PIL import Image

from cfsam_hf.bases.bundled import bundled_checkpoint, bundled_names
from cfsam_hf.commands.terminal import build_parser

from . import REPOSITORY
from .markdown_pages import PAGES, Block, anchors_of, blocks_of, commands_of, links_of, page_name, spans_of
from .test_import_graph import ROOMS

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "bash"]
# Folders of the repository that a page may name files of.
FOLDERS = ("cfsam_hf", "docs", "examples", "model_cards", "tests", ".ci", ".github")
LAUNCHERS = ("python", "accelerate")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the files that the snippets read: a small `tile.png`, a `slide.tif`, and results of both."""
    import transformers

    import cfsam_hf  # noqa: F401  (registers the pipeline)
    from cfsam_hf.model.result import provenance
    from cfsam_hf.outputs import write_geojson
    from cfsam_hf.outputs.label_pyramid import write_label_pyramid
    from cfsam_hf.outputs.slide_table import nuclei_batch, nuclei_schema, write_slide_table

    folder = tmp_path_factory.mktemp("snippets")
    image = skimage.data.immunohistochemistry()[-128:, -128:]
    Image.fromarray(image).save(folder / "tile.png")
    pixels_per_centimetre = (20_000, 20_000)  # 0.5 micrometres
    tifffile.imwrite(folder / "slide.tif", image, tile=(64, 64), resolution=pixels_per_centimetre, resolutionunit=3)
    pipe = transformers.pipeline("nuclei-segmentation")
    result = pipe(str(folder / "tile.png"), mpp=0.5)
    write_geojson(result, folder / "tile.geojson")
    schema = nuclei_schema(result.type_names)
    nuclei = [nuclei_batch(result, schema)]
    write_slide_table(nuclei, schema, folder / "slide.parquet", provenance(result))
    write_label_pyramid(nuclei, folder / "slide_labels.ome.tif", provenance(result))
    return folder


@pytest.mark.parametrize("block", [b for b in PYTHON if not b.needs], ids=str)
def test_python_runs(block, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(block.code, str(block), "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("checkpoint", bundled_names())
def test_python_of_a_card_runs(checkpoint, workplace, monkeypatch):
    """With the package imported, as the card says, no code of the checkpoint is needed."""
    monkeypatch.chdir(workplace)
    card = REPOSITORY / "model_cards" / checkpoint / "README.md"
    [block] = [block for block in blocks_of(card) if block.language == "python"]
    assert block.code.count("PATH_OR_ID") == 1
    names = {"__name__": "snippet"}
    exec(compile(block.code.replace("PATH_OR_ID", str(bundled_checkpoint(checkpoint))), str(block), "exec"), names)
    assert len(names["result"].table) == names["result"].instance_map.max() > 0


@pytest.mark.parametrize("block", [b for b in PYTHON if b.needs], ids=str)
def test_python_that_needs_more_compiles_and_its_imports_resolve(block):
    tree = ast.parse(block.code, str(block))
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert tree.body
    exec(compile(tree, str(block), "exec"), {})


@cache
def known_options() -> set[str]:
    """Every long option of `cfsam` and its sub-commands."""
    parsers, options = [build_parser()], set()
    while parsers:
        parser = parsers.pop()
        for action in parser._actions:
            options |= {name for name in action.option_strings if name.startswith("--")}
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
    return options


@cache
def words_of_scripts() -> set[str]:
    """Every identifier of the examples and of the library that reads their command lines."""
    files = [*REPOSITORY.glob("examples/**/*.py"), *REPOSITORY.glob("cfsam_hf/**/*.py")]
    return {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


def check_script(words: list[str], block: Block) -> None:
    """A call of a script of `examples/`: the file and its options exist."""
    scripts = [word for word in words if word.endswith(".py")]
    if not scripts:
        return
    assert (REPOSITORY / scripts[0]).is_file(), f"{block}: {scripts[0]}"
    for word in words[words.index(scripts[0]) + 1 :]:
        if word.startswith("--"):
            assert word[2:].partition("=")[0].replace("-", "_") in words_of_scripts(), f"{block}: {word}"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_parse(block, capsys):
    for words in commands_of(block):
        program = Path(words[0]).name
        if program == "cfsam":
            try:
                build_parser().parse_args(words[1:])
            except SystemExit as error:
                pytest.fail(f"{block}: {' '.join(words)}: {capsys.readouterr().err}" if error.code else "")
        elif program in LAUNCHERS:
            check_script(words, block)
        elif program == "pip" and any(word.startswith((".[", "cfsam_hf[")) for word in words):
            [extras] = [word for word in words if word.startswith((".[", "cfsam_hf["))]
            settings = configparser.ConfigParser()
            settings.read(REPOSITORY / "setup.cfg")
            assert set(re.search(r"\[(.+)\]", extras)[1].split(",")) <= set(settings["options.extras_require"])
        for word in words:
            if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
                assert (REPOSITORY / word).exists(), f"{block}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in links_of(page):
        if re.match(r"\w+:", target):
            assert target.startswith(("https://", "mailto:")), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors_of(file), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_and_options_named_in_the_text_exist(page):
    for span in spans_of(page):
        first, *rest = span.split()
        # A capital NAME stands for a name of the reader's choice.
        if first.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and "NAME" not in first:
            assert (REPOSITORY / first).exists(), span
        for word in (first, *rest):
            option = re.match(r"--[a-z][\w-]*", word)
            if option and not (set(LAUNCHERS) | {"pip", "mkdocs", "pytest", "git"}) & {first}:
                known = option[0] in known_options() or option[0][2:].replace("-", "_") in words_of_scripts()
                assert known, f"{span}: {option[0]}"


def resolve(name: str) -> object:
    """The object of a dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name in ("docs", "reference")], ids=page_name)
def test_names_of_the_reference_resolve(page):
    text = page.read_text(encoding="utf-8")
    for name, options in re.findall(r"^::: (\S+)$((?:\n+(?: {4}.*))*)", text, flags=re.MULTILINE):
        found = resolve(name)
        inline = re.search(r"members: \[(.+)\]", options)
        members = inline[1].split(", ") if inline else re.findall(r"^ +- (\w+)$", options, flags=re.MULTILINE)
        for member in members:
            assert hasattr(found, member), f"{name}.{member}"
            assert getattr(found, member).__doc__, f"{name}.{member} has no docstring"
    for name in re.findall(r"\]\[(cfsam_hf[\w.]+)\]", text):
        resolve(name)


def test_each_block_is_in_the_file_that_the_table_names():
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|`]+ \| `(cfsam_hf/[\w/]+)\.py` \| (.+) \|$", text, flags=re.MULTILINE)
    assert len(rows) > 10
    for file, names in rows:
        module = importlib.import_module(file.replace("/", "."))
        for name in re.findall(r"`(\w+)`", names):
            assert getattr(module, name).__module__ == module.__name__, f"{file}.py: {name}"


def test_the_table_of_rooms_is_the_one_that_the_imports_are_checked_against():
    package = REPOSITORY / "cfsam_hf"
    present = {path.stem for path in package.iterdir() if (path / "__init__.py").is_file() or path.suffix == ".py"}
    rooms = {name: allowed & present for name, allowed in ROOMS.items() if name in present and "__" not in name}
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \| .+ \| ?([^|]*) \|$", text, flags=re.MULTILINE)
    written = {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in table}
    assert written.pop("commands") == set()  # it may import everything
    del rooms["commands"]
    assert written == rooms
