"""`cfsam data`: describes a data set, lists its problems, or writes it as Parquet shards."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import one_line, printable
from .options import add_debug_option, positive, size
from .terminal import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from ..data import Tile, TileRecord
    from ..data.audit import Audit

SHEET_FORMATS = (".png", ".jpg", ".jpeg")
MOST_NOTES = 20
"""Printed by `cfsam data check` without `--all-notes`."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam data` and its options."""
    parser = subparsers.add_parser(
        "data",
        help="describe, check or convert a data set",
        description="Describes, checks or converts a data set of nuclei that lies on disk in its official layout.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser(
        "info",
        help="count tiles, nuclei, types and sizes; draw a sheet of tiles",
        description="Counts tiles and nuclei by type, fold and tissue, and measures nuclei and pixel sizes.",
    )
    _add_dataset(info)
    info.add_argument("--split", metavar="FILE", help="split file whose parts are counted as folds")
    info.add_argument("-o", "--output", metavar="FILE", help="also write the printed text to a file")
    info.add_argument("--json", metavar="FILE", help="also write the counts as JSON")
    _add_sheet(info)
    check = actions.add_parser(
        "check",
        help="read everything and list every problem",
        description=(
            "Reads every file and prints a summary, then notes, then a line for each problem, which names the file. "
            "Notes list what a reader left out of an annotation file, overlapping outlines, and nuclei whose median "
            "diameter is not within 4 to 20 µm. Duplicate images are problems too, and so are leaks: a tile, patient "
            "or image in two folds, in two parts of a split file, or in two data sets. The exit status is 1 if there "
            "are problems."
        ),
    )
    _add_dataset(check)
    check.add_argument("--split", metavar="FILE", help="split file: leaks between its parts are problems")
    check.add_argument(
        "--against",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "PATH"),
        help="another data set, which must share no tile, patient or image with the first; can be repeated",
    )
    check.add_argument("--all-notes", action="store_true", help=f"print all notes, not only the first {MOST_NOTES}")
    _add_sheet(check)
    convert = actions.add_parser(
        "convert",
        help="write the data set as Parquet shards",
        description=(
            "Writes FOLD-00000-of-N.parquet files, all of them or none, that datasets.load_dataset('parquet', "
            "data_files=..., streaming=True) streams and that the data set `parquet` reads back unchanged."
        ),
    )
    _add_dataset(convert)
    convert.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder for the shards; created if needed"
    )
    convert.add_argument(
        "--shard-size",
        type=size,
        default=500_000_000,
        metavar="SIZE",
        help="largest size of a shard, such as 200MB or 1GB (default: 500MB)",
    )
    parser.set_defaults(run=run)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="coco, conic, consep, cpm15, cpm17, crchisto, instance_pairs (images with label maps), kumar, lizard, "
        "mask_folders (one mask per nucleus), monusac, monuseg, nuinsseg, pannuke, parquet (written by convert), "
        "puma, qupath (images with outlines), tnbc",
    )
    parser.add_argument("path", metavar="PATH", help="folder of the download")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting of the reader, such as types=raw or mpp=0.5; can be repeated",
    )
    add_debug_option(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the action that the arguments name; returns the exit status."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"info": _info, "check": _check, "convert": _convert}
    return actions[args.action](args)


def _info(args: argparse.Namespace) -> int:
    from ..data import list_tiles
    from ..data.survey import TileFacts, survey
    from ..drawing.tile_sheet import choose_tiles
    from ..files.json_files import write_json
    from ..files.writable import check_file_writable, write_text

    sheet = _sheet_path(args.sheet)
    records = list_tiles(args.name, args.path, **_options(args.option))
    for path in (args.output, args.json, args.sheet):
        if path:
            check_file_writable(Path(path))
    parts = _parts(records, args.split)
    if parts is not None:
        records = [record for part in parts.values() for record in part]
    shown = {record.id for record in choose_tiles(records, args.tiles)} if sheet else set()
    facts, tiles = [], []
    for number, record in enumerate(records, start=1):
        tile = record.load()
        facts.append(TileFacts.of(tile))
        if tile.id in shown:
            tiles.append(tile)
        _progress(number, len(records))
    found = {"dataset": args.name, "path": str(args.path), **survey(facts, dict(records[0].type_names))}
    text = printable(format_survey(found))
    print(text)
    if args.output:
        write_text(Path(args.output), f"{text}\n")
        print(f"the text above -> {one_line(str(args.output))}")
    if args.json:
        write_json(Path(args.json), found)
        print(f"counts -> {one_line(str(args.json))}")
    if sheet:
        _draw_sheet(tiles, sheet, f"{args.name} {args.path}", len(records))
    return EXIT_OK


def _check(args: argparse.Namespace) -> int:
    from ..data.audit import audit_dataset, shared_images
    from ..data.leaks import find_leaks
    from ..drawing.tile_sheet import choose_tiles
    from ..files.writable import check_file_writable

    sheet = _sheet_path(args.sheet)
    if sheet is not None:
        check_file_writable(sheet)
    options = _options(args.option)
    audits = [audit_dataset(args.name, args.path, _progress, **options)]
    audits += [audit_dataset(name, path, _progress) for name, path in args.against]
    first = audits[0]
    if first.records:
        try:
            parts = _parts(first.records, args.split)
        except ValueError as error:
            first.problems.append(str(error))
            parts = None
        groups = parts if parts is not None else _folds(first.records)
        first.problems += [f"leak: {leak}" for leak in find_leaks(groups)]
    for audit in audits:
        for line in _summary(audit):
            print(one_line(line))
    notes = [note for audit in audits for note in audit.notes]
    shown = len(notes) if args.all_notes else MOST_NOTES
    for note in notes[:shown]:
        print(f"note: {one_line(note)}")
    if len(notes) > shown:
        print(f"{len(notes) - shown:,} more notes; --all-notes prints them")
    problems = [problem for audit in audits for problem in audit.problems]
    for position, audit in enumerate(audits):
        for other in audits[position + 1 :]:
            # Two data sets of the same name would make one group.
            second = other.name if other.name != audit.name else f"{other.name} (again)"
            leaks = find_leaks({audit.name: audit.records, second: other.records})
            problems += [f"leak: {leak}" for leak in leaks]
            problems += [f"leak: {line}" for line in shared_images(audit, other)]
    for problem in problems:
        print(f"problem: {one_line(problem)}")
    readable = {facts.id for facts in first.facts}
    if sheet is not None and readable:
        drawn = choose_tiles([record for record in first.records if record.id in readable], args.tiles)
        _draw_sheet([record.load() for record in drawn], sheet, f"{args.name} {args.path}", len(first.records))
    print(f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "no problems")
    return EXIT_FAILED if problems else EXIT_OK


def _convert(args: argparse.Namespace) -> int:
    from ..data import list_tiles
    from ..data.parquet_writer import write_shards
    from ..files.writable import check_writable

    output = Path(args.output)
    records = list_tiles(args.name, args.path, **_options(args.option))
    check_writable(output)
    files = write_shards(records, output, args.shard_size, _progress)
    size = sum(file.stat().st_size for file in files)
    shards = f"{len(files)} shard{'s' * (len(files) != 1)}"
    print(f"{len(records):,} tiles, {size / 1e6:,.1f} MB in {shards} -> {one_line(str(output))}")
    for file in files:
        print(f"  {one_line(file.name)}")
    return EXIT_OK


def format_survey(found: dict[str, Any]) -> str:
    """Formats the record of `survey`, with `dataset` and `path`, as a page of text."""
    from ..data.survey import NO_GROUP

    unit = "µm" if found["diameter_unit"] == "um" else "px"
    per_tile, overlaps = found["nuclei_per_tile"], found["overlaps"]
    lines = [
        f"{found['dataset']} {one_line(found['path'])}",
        "",
        f"Tiles        {found['tiles']:,}, {found['empty_tiles']:,} of them without nuclei",
        f"Nuclei       {found['nuclei']:,}; per tile {per_tile['least']:,} to {per_tile['most']:,}, "
        f"median {per_tile['median']:g}",
        f"Size         {_tally(found['sizes'])} px",
        f"Pixel size   {_tally(found['mpp'])} µm",
        f"Annotated    {100 * found['annotated_share']:.4g} % of the pixels",
        f"Overlaps     {overlaps['nuclei']:,} nuclei on {overlaps['pixels']:,} pixels, {overlaps['hidden']:,} of them "
        f"hidden; {overlaps['undrawn']:,} outlines without a pixel",
        f"Diameter     {_spread(found['diameter'], unit)}",
    ]
    if found["types"]:
        rows = [["Type", "nuclei", "share", "tiles", "diameter, 5 % to 95 % of the nuclei"]]
        rows += [
            [name, f"{t['nuclei']:,}", f"{100 * t['share']:.1f} %", f"{t['tiles']:,}", _spread(t["diameter"], unit)]
            for name, t in found["types"].items()
        ]
        lines += ["", *_table(rows)]
    for title, key in (("Fold", "folds"), ("Tissue", "tissues")):
        if list(found[key]) == [NO_GROUP]:
            continue
        rows = [[title, "tiles", "nuclei", *found["types"]]]
        rows += [
            [name, f"{g['tiles']:,}", f"{g['nuclei']:,}", *(f"{count:,}" for count in g["types"].values())]
            for name, g in found[key].items()
        ]
        lines += ["", *_table(rows)]
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns rows in columns, the first to the left and the others to the right."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _tally(counts: dict[str, int], most: int = 4) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{value} ({count:,} tiles)" for value, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} others" if len(counts) > most else "")


def _spread(diameter: dict[str, float] | None, unit: str) -> str:
    if diameter is None:
        return "-"
    return f"{diameter['p5']:.1f} to {diameter['p95']:.1f}, median {diameter['median']:.1f} {unit}"


def _add_sheet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sheet", metavar="FILE", help="draw tiles with outlined nuclei: a .png or .jpg")
    parser.add_argument(
        "--tiles", type=positive(int), default=24, metavar="N", help="number of tiles on the sheet (default: 24)"
    )


def _sheet_path(text: str | None) -> Path | None:
    if text is None:
        return None
    sheet = Path(text)
    if sheet.suffix.lower() not in SHEET_FORMATS:
        raise ValueError(f"{sheet}: the sheet is a picture; its name must end in {', '.join(SHEET_FORMATS)}")
    return sheet


def _draw_sheet(tiles: "Sequence[Tile]", path: Path, name: str, total: int) -> None:
    from ..drawing.picture_files import write_picture
    from ..drawing.tile_sheet import tile_sheet

    write_picture(tile_sheet(tiles, f"{name}: {len(tiles)} of {total:,} tiles"), path)
    print(f"{len(tiles)} of {total} tiles drawn -> {one_line(str(path))}")


def _summary(audit: "Audit") -> list[str]:
    """What was read, as lines that fit on one screen."""
    from ..data.survey import survey

    overlaps = audit.overlaps
    lines = [
        f"{audit.name}: {audit.tiles:,} of {len(audit.records):,} tiles read, {audit.nuclei:,} nuclei; "
        f"{audit.empty:,} empty tiles; overlaps in {audit.overlapping_tiles:,} tiles ({overlaps.nuclei:,} nuclei, "
        f"{overlaps.hidden:,} hidden, {overlaps.undrawn:,} outlines without a pixel)"
    ]
    if audit.facts:
        found = survey(audit.facts, dict(audit.records[0].type_names))
        unit = "µm" if found["diameter_unit"] == "um" else "px"
        lines += [
            f"  Size         {_tally(found['sizes'])} px",
            f"  Pixel size   {_tally(found['mpp'])} µm",
            f"  Annotated    {100 * found['annotated_share']:.4g} % of the pixels",
            f"  Diameter     {_spread(found['diameter'], unit)}",
        ]
        if found["types"]:
            types = [f"{name}: {counts['nuclei']:,}" for name, counts in found["types"].items()]
            lines.append(f"  Types        {', '.join(types)}")
    return lines


def _parts(records: "Sequence[TileRecord]", split: str | None) -> "dict[str, list[TileRecord]] | None":
    """The tiles of a split file by part, which becomes their fold; None without a split file."""
    from ..data import read_split, select_tiles

    if split is None:
        return None
    content = read_split(split)
    return {
        part: [replace(record, fold=part) for record in select_tiles(records, ids)]
        for part, ids in content.parts().items()
    }


def _folds(records: "Sequence[TileRecord]") -> "dict[str, list[TileRecord]]":
    from ..data.survey import NO_GROUP

    folds: dict[str, list[TileRecord]] = {}
    for record in records:
        folds.setdefault(f"fold {record.fold}" if record.fold else NO_GROUP, []).append(record)
    return folds


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """Parses `KEY=VALUE` settings of a reader; a value that is not JSON is taken as text."""
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"--option {text!r}: write KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
        if isinstance(options[key], dict):
            # The only mappings that readers take are names by type id; JSON has no numbers as keys.
            options[key] = {int(k) if k.isdecimal() else k: name for k, name in options[key].items()}
    return options


def _progress(done: int, total: int) -> None:
    """Shows on a terminal how many tiles have been read."""
    if sys.stderr.isatty():
        end = "\r\033[K" if done == total else ""
        print(f"\r{done:,} of {total:,} tiles{end}", end="", file=sys.stderr, flush=True)
