"""`cfsam evaluate`: scores a checkpoint, a baseline or given label maps on annotated tiles."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import apply_backend, load_pipeline, precision_note, resolve_checkpoint, resolve_device
from .messages import one_line, printable
from .options import (
    add_autocast_option,
    add_backend_option,
    add_debug_option,
    add_style_option,
    add_views_option,
    check_backend,
    positive,
)
from .terminal import EXIT_OK, UsageError, say

if TYPE_CHECKING:
    from PIL import Image

    from ..data import TileRecord
    from ..data.data_items import DataItem
    from ..data.records import Tile
    from ..evaluation import Prediction, Processes, ShownTile, System, TileScore

# How many of the worst and of the best tiles a page shows.
EXAMPLES = 3


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam evaluate` and its options."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a model, a baseline or label maps on annotated tiles",
        description=(
            "Finds the nuclei of annotated tiles, compares them with the annotations, and writes OUT/results.json "
            "(every score, named by its averaging, with a 95 % bootstrap interval, by type and by tissue), "
            "OUT/results.md (tables), OUT/images.csv and .parquet (scores of single images) and OUT/NAME_tiles.png "
            "(worst and best tiles)."
        ),
        epilog=(
            "`accelerate launch examples/evaluate.py` with the same options distributes the tiles over several "
            "processes."
        ),
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint", help="name of a bundled checkpoint, folder or Hugging Face Hub id (default: cfsam-tiny)"
    )
    source.add_argument(
        "--predictions",
        metavar="FOLDER",
        help="folder of label maps TILE.png, .tif, .npy or .mat (HoVer-Net's), or TILE_instances.*, with optional "
        "TILE_types.*",
    )
    source.add_argument("--baseline", choices=("classical",), help="Otsu on haematoxylin and watershed; no types")
    source.add_argument(
        "--fold-checkpoints",
        nargs=3,
        metavar=("A", "B", "C"),
        help="with --protocol pannuke: models trained on folds 1, 2 and 3",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="ITEM",
        help="reader=NAME,path=FOLDER[,split=FILE][,name=NAME][,types=FILE][,SETTING OF THE READER=VALUE]; items "
        "with the same name form one data set",
    )
    parser.add_argument(
        "--part",
        choices=("validation", "tuning", "train", "test", "all"),
        help="which tiles to score: a part of the split file, the official split `test`, or all (default: validation; "
        "test with --protocol)",
    )
    parser.add_argument(
        "--protocol",
        choices=("pannuke",),
        help="cross-validate on PanNuke's three folds and report mean and deviation",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="folder for the results; created if needed. With --table: file for the table",
    )
    parser.add_argument("--name", help="name of the system in the tables (default: the checkpoint's own name)")
    parser.add_argument("--types", metavar="A,B,C", help="with --predictions: names of the type ids 1, 2, 3, ...")
    parser.add_argument(
        "--pages",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw the worst and the best tiles (default: yes)",
    )
    parser.add_argument(
        "--resamples", type=positive(int), default=2000, metavar="N", help="bootstrap resamples (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    add_views_option(parser)
    add_style_option(parser)
    add_autocast_option(parser)
    add_backend_option(parser)
    parser.add_argument(
        "--table",
        nargs="+",
        metavar="RESULTS",
        help="print one table of several results.json files (or their folders) and evaluate nothing",
    )
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluates, or prints the table of earlier evaluations; returns the exit status."""
    _check_usage(args)
    if args.table:
        return _table(args)
    from ..data.data_items import DataItem
    from ..evaluation import Processes, report, write_report
    from ..files.writable import check_writable

    output, processes = Path(args.output), Processes(args.device)
    try:
        if processes.is_main:
            check_writable(output)
        items = [DataItem.parse(text) for text in args.data]
        evaluate = _evaluate_pannuke if args.protocol else _evaluate_datasets
        record, tiles, pages = evaluate(args, items, processes)
        if processes.is_main:
            write_report(output, record, tiles, pages() if args.pages else None)
            print(printable(report(record)))
            for name, result in record["results"].items():
                if reason := result.get("types_not_compared"):
                    say(f"{name}: types are not compared and have no scores: {reason}")
            print(f"results, tables and scores of {sum(map(len, tiles.values())):,} images -> {one_line(str(output))}")
    finally:
        processes.close()
    return EXIT_OK


def _check_usage(args: argparse.Namespace) -> None:
    if not args.table and not (args.data and args.output):
        raise UsageError("give --data and -o, or --table")
    if bool(args.fold_checkpoints) and not args.protocol:
        raise UsageError("--fold-checkpoints needs --protocol pannuke")
    if args.types and not args.predictions:
        raise UsageError("--types names the types of --predictions")
    check_backend(args)
    if args.onnx and args.fold_checkpoints:
        raise UsageError("--onnx is one checkpoint's network; --fold-checkpoints names three")
    for name in ("views", "autocast", "backend", "style"):
        if getattr(args, name) and (args.predictions or args.baseline):
            raise UsageError(f"--{name} is for checkpoints, not for --predictions or --baseline")


def _table(args: argparse.Namespace) -> int:
    from ..evaluation import comparison
    from ..files.writable import check_file_writable, write_text

    table = comparison([_read_results(Path(path)) for path in args.table])
    if args.output:
        check_file_writable(Path(args.output))
    print(printable(table), end="")
    if args.output:
        write_text(Path(args.output), table)
        print(f"table -> {one_line(str(args.output))}")
    return EXIT_OK


# The record of the results, the scores of the tiles by data set, and what draws the pages.
Evaluation = tuple[dict[str, Any], "dict[str, list[TileScore]]", "Callable[[], dict[str, Image.Image]]"]


def _evaluate_datasets(args: argparse.Namespace, items: "Sequence[DataItem]", processes: "Processes") -> Evaluation:
    """Evaluates one system on every data set."""
    from ..data.data_items import records_by_dataset
    from ..evaluation import dataset_record, evaluate_records, results_record
    from ..evaluation.environment import environment

    part = args.part or "validation"
    groups = records_by_dataset(items, part)
    if not groups:
        hint = "" if any(item.split for item in items) else "; name them with split=FILE, or give --part all"
        raise ValueError(f"there are no {part} tiles in {', '.join(item.path for item in items)}{hint}")
    system = _system(args, args.checkpoint, processes, [r.id for records in groups.values() for r in records])
    tiles, results = {}, {}
    for name, records in groups.items():
        began = time.monotonic()
        tiles[name] = evaluate_records(records, system, processes, progress=_Progress(name, records, processes))
        splits = sorted({item.split for item in items if item.dataset == name and item.split})
        results[name] = {
            "reader": sorted({item.reader for item in items if item.dataset == name}),
            **dataset_record(
                tiles[name],
                split=", ".join(splits) or None,
                seconds=time.monotonic() - began,
                resamples=args.resamples,
                seed=args.seed,
            ),
        }
    record = results_record(system, part, environment(_device(args, processes), processes.count), results)
    return record, tiles, lambda: {name: _page(system, name, groups[name], tiles[name]) for name in groups}


def _evaluate_pannuke(args: argparse.Namespace, items: "Sequence[DataItem]", processes: "Processes") -> Evaluation:
    """Evaluates three checkpoints, or one system without weights of its own, by PanNuke's protocol."""
    from ..data import list_tiles
    from ..evaluation import System, evaluate_pannuke, results_record
    from ..evaluation.environment import environment

    if len(items) != 1 or items[0].reader != "pannuke":
        raise ValueError("--protocol pannuke needs one data item: --data reader=pannuke,path=FOLDER")
    part, path = args.part or "test", items[0].path
    if args.fold_checkpoints:
        # Resolved now: otherwise a missing third checkpoint is noticed when the first two have been evaluated.
        sources = [resolve_checkpoint(source) for source in args.fold_checkpoints]
        makers = [partial(_system, args, source, processes, []) for source in sources]
    elif args.predictions or args.baseline:
        makers = [partial(_system, args, None, processes, [])] * 3
    else:
        raise ValueError(
            "--protocol pannuke tests three models: give --fold-checkpoints A B C, trained on folds 1, 2 and 3"
        )
    began = time.monotonic()
    result, scores = evaluate_pannuke(
        path,
        makers,
        part=part,
        processes=processes,
        resamples=args.resamples,
        seed=args.seed,
        progress=_Progress("pannuke", None, processes),
    )
    result["seconds"] = round(time.monotonic() - began, 1)
    names = list(dict.fromkeys(fold["system"]["name"] for fold in result["folds"]))
    system = System(args.name or ", ".join(names), _predict_with_none, {"kind": "three folds"})
    record = results_record(system, part, environment(_device(args, processes), processes.count), {"pannuke": result})
    tiles = {f"pannuke, trained on fold {f['train']}": t for f, t in zip(result["folds"], scores, strict=True)}

    def pages() -> "dict[str, Image.Image]":
        # Of the first model alone: three pages of the same folds would add little.
        fold = result["folds"][0][part]
        return {"pannuke": _page(makers[0](), "pannuke", list_tiles("pannuke", path, split=fold), scores[0])}

    return record, tiles, pages


def _predict_with_none(tile: "Tile") -> "Prediction":
    raise TypeError("three models were evaluated, each on its own fold, so no single one predicts")


def _system(args: argparse.Namespace, checkpoint: str | None, processes: "Processes", ids: Sequence[str]) -> "System":
    from ..evaluation import LabelMapFolder, checkpoint_system, classical_system, folder_system
    from ..inference.threads import use_physical_cores

    if args.predictions:
        folder = LabelMapFolder(args.predictions, args.types.split(",") if args.types else None)
        folder.check(ids)
        return folder_system(folder, args.name)
    if args.baseline == "classical":
        return classical_system(name=args.name)
    source = resolve_checkpoint(checkpoint)
    use_physical_cores()
    pipe = load_pipeline(checkpoint, processes.device)
    apply_backend(args.backend, pipe, args.onnx)
    if processes.is_main and (note := precision_note(args.autocast, pipe)):
        say(f"note: {note}")
    return checkpoint_system(
        pipe,
        source,
        args.name,
        views=args.views or 1,
        autocast_dtype=args.autocast,
        style=args.style,
    )


def _device(args: argparse.Namespace, processes: "Processes") -> str:
    return "cpu" if args.predictions or args.baseline else resolve_device(processes.device)


def _page(
    system: "System", dataset: str, records: "Sequence[TileRecord]", tiles: "Sequence[TileScore]"
) -> "Image.Image":
    """The page of worst and best tiles. Their nuclei are found again, which is cheaper than keeping those of all."""
    from ..evaluation import ShownTile, ranked_tiles, tiles_page

    def shown(places: Sequence[int]) -> "Iterator[ShownTile]":
        for place in places:
            tile = records[place].load()
            yield ShownTile(tiles[place], tile, system.predict(tile))

    worst, best = ranked_tiles(tiles, EXAMPLES)
    return tiles_page(f"{system.name} on {dataset}, {len(tiles):,} tiles", shown(worst), shown(best))


def _read_results(path: Path) -> Mapping[str, Any]:
    path = path / "results.json" if path.is_dir() else path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a results file ({error})") from error
    if not isinstance(record, dict) or not {"system", "results"} <= record.keys():
        raise ValueError(f"{path}: not a results file of cfsam evaluate")
    return record


class _Progress:
    """Shows on a terminal how many tiles of its share the main process has evaluated."""

    def __init__(self, name: str, records: "Sequence[TileRecord] | None", processes: "Processes"):
        self.name, self.done = one_line(name), 0
        self.total = "" if records is None else f" of {len(processes.share(records)):,}"
        self.shown = processes.is_main and sys.stderr.isatty()

    def __call__(self, score: "TileScore") -> None:
        self.done += 1
        if self.shown:
            print(f"\r\033[K{self.name}: {self.done:,}{self.total} tiles", end="\r", file=sys.stderr, flush=True)
