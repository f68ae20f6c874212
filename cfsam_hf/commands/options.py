"""The commands and options of `cfsam`, and the values that they take.

Only the standard library is imported, so that `--help` and a mistyped option answer at once.
"""

import argparse

from ..model.version import __version__


def build_parser() -> argparse.ArgumentParser:
    """The parser of `cfsam` and its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="cfsam", description="Finds, outlines and types the nuclei in H&E tissue images (CF-SAM)."
    )
    parser.add_argument("--version", action="version", version=f"cfsam_hf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_segment(commands)
    _add_info(commands)
    _add_data(commands)
    _add_evaluate(commands)
    _add_finetune(commands)
    _add_export(commands)
    _add_push(commands)
    return parser


def _add_segment(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "segment",
        help="find the nuclei in images",
        description=(
            "Finds the nuclei in images and writes, for each image NAME.*, OUT/NAME_instances.tif (label map), "
            "NAME.geojson (polygons, for QuPath), NAME.parquet (table), NAME_overlay.png (picture), and one "
            "OUT/summary.csv with counts and densities per type."
        ),
        epilog=(
            "A folder is searched with its sub-folders, which are mirrored below OUT; a pattern in quotes is mirrored "
            "from its first wildcard on. Label maps (X_instances.*) and overlays (X_overlay.*) beside an image X are "
            "left out. Images of one name but different endings keep them: a.png and a.tif give a.png.geojson "
            "and a.tif.geojson. An image that cannot be done has a line on stderr, the others are done all the same, "
            "and the exit status is 1."
        ),
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image file, folder of images, or quoted pattern")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the results; made if needed")
    parser.add_argument("--demo", action="store_true", help="take a tissue picture that comes with scikit-image")
    parser.add_argument(
        "--mpp", type=_positive(float), help="pixel size of the images in micrometres (default: as the checkpoint's)"
    )
    parser.add_argument(
        "--checkpoint", help="folder or Hugging Face Hub id of a CF-SAM model (default: the bundled one)"
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--batch-size", type=_positive(int), metavar="N", help="tiles per step (default: chosen by device)"
    )
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the overlay picture (default: yes)",
    )
    parser.add_argument(
        "--also",
        action="append",
        choices=("csv", "coco"),
        default=[],
        help="write NAME_nuclei.csv or NAME_coco.json too; can be repeated",
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        metavar="P",
        help="leave out nuclei with a score (probability that the outline overlaps a true nucleus with IoU > .5) "
        "below P (default: 0; those below the checkpoint's minimum_score are left out anyway)",
    )
    parser.add_argument(
        "--decoding",
        nargs="+",
        type=_setting,
        metavar="NAME=VALUE",
        help="thresholds in place of the checkpoint's, such as nuclei_threshold=0.3 minimum_score=0 where faint "
        "nuclei are missed (an unknown name lists them all)",
    )
    _add_views(parser)
    _add_autocast(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out images whose results in OUT are complete and were made by the same version, checkpoint and "
        "options from the same file",
    )
    parser.add_argument(
        "--max-pixels",
        type=_positive(int),
        metavar="N",
        help="refuse larger images (default: 268,435,456 = 16,384 squared)",
    )
    parser.add_argument(
        "--page",
        type=_positive(int),
        metavar="N",
        help="page of TIFF files (frame of animations) that hold several pictures, counted from 1; these are refused "
        "otherwise",
    )
    parser.add_argument("--verbose", action="store_true", help="say at the end how long the network waited")
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info",
        help="what a checkpoint is",
        description="Says what a checkpoint is: architecture, types, pixel size, training data, metrics, licences.",
    )
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="folder or Hugging Face Hub id (default: the bundled one)"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "data",
        help="what is in a data set, what is wrong with it, and the data set as Parquet shards",
        description="Looks at a data set of nuclei that lies on disk in its official layout.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser(
        "info",
        help="count tiles, nuclei, types and sizes; draw a sheet of tiles",
        description="Counts tiles and nuclei by type, fold and tissue, and measures nuclei and pixel sizes.",
    )
    _add_dataset(info)
    info.add_argument("--split", metavar="FILE", help="split file: count its train and validation tiles as folds")
    info.add_argument("-o", "--output", metavar="FILE", help="write what is printed to a file, too")
    info.add_argument("--json", metavar="FILE", help="write the counts as JSON too")
    info.add_argument("--sheet", metavar="FILE", help="draw tiles with outlined nuclei: a .png or .jpg")
    info.add_argument(
        "--tiles", type=_positive(int), default=24, metavar="N", help="how many tiles the sheet shows (default: 24)"
    )
    check = actions.add_parser(
        "check",
        help="read everything and list every problem",
        description=(
            "Reads every file and prints a line for each problem, with the file and what is wrong with it, and a note "
            "for each tile with overlapping outlines. Problems are also images that occur twice, and leaks: a tile, "
            "patient or image in two folds, in train and validation of a split file, or in two data sets. The exit "
            "status is 1 if there are problems."
        ),
    )
    _add_dataset(check)
    check.add_argument("--split", metavar="FILE", help="split file: look for leaks between its two parts")
    check.add_argument(
        "--against",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "PATH"),
        help="another data set, which must share no tile, patient or image with the first; can be given several times",
    )
    convert = actions.add_parser(
        "convert",
        help="write the data set as Parquet shards",
        description=(
            "Writes FOLD-00000-of-N.parquet files, all of them or none, that datasets.load_dataset('parquet', "
            "data_files=..., streaming=True) streams and that the data set `parquet` reads back unchanged."
        ),
    )
    _add_dataset(convert)
    convert.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the shards; made if needed")
    convert.add_argument(
        "--shard-size", type=_size, default=500_000_000, metavar="SIZE", help="such as 200MB or 1GB (default: 500MB)"
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score a model, a baseline or label maps on annotated tiles",
        description=(
            "Finds the nuclei of annotated tiles, compares them with the truth, and writes OUT/results.json (every "
            "score with its averaging in its name and a 95 % bootstrap interval, by type and by tissue), "
            "OUT/results.md (tables), OUT/images.csv and .parquet (scores of single images) and OUT/NAME_tiles.png "
            "(worst and best tiles)."
        ),
        epilog=(
            "Started by `accelerate launch examples/evaluate.py` with the same options, the tiles are shared out over "
            "the processes."
        ),
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", help="folder or Hugging Face Hub id (default: the bundled one)")
    source.add_argument(
        "--predictions",
        metavar="FOLDER",
        help="label maps TILE.png, .tif, .npy or .mat (HoVer-Net's), or TILE_instances.*, with optional TILE_types.*",
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
        help="reader=NAME,path=FOLDER[,split=FILE][,name=NAME][,types=FILE][,SETTING OF THE READER=VALUE]; items of "
        "one name are one data set",
    )
    parser.add_argument(
        "--part",
        choices=("validation", "train", "test", "all"),
        help="tiles to score: of a split file, of the official split `test`, or all (default: validation; test with "
        "--protocol)",
    )
    parser.add_argument("--protocol", choices=("pannuke",), help="PanNuke's three folds: mean and deviation")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="folder for the results; made if needed. With --table: file for the table",
    )
    parser.add_argument("--name", help="what the tables call the system (default: the checkpoint's own name)")
    parser.add_argument("--types", metavar="A,B,C", help="with --predictions: names of the type ids 1, 2, 3, ...")
    parser.add_argument(
        "--pages",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw the worst and the best tiles (default: yes)",
    )
    parser.add_argument(
        "--resamples", type=_positive(int), default=2000, metavar="N", help="of the bootstrap (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    _add_views(parser)
    _add_autocast(parser)
    parser.add_argument(
        "--table",
        nargs="+",
        metavar="RESULTS",
        help="print one table of several results.json (or their folders); nothing is evaluated",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_finetune(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "finetune",
        help="train a checkpoint's adapter on your own annotations",
        description=(
            "Trains the adapter of a checkpoint (its encoder stays frozen) on images with QuPath's GeoJSON exports or "
            "label maps, holds some of them out, and scores the checkpoint on these before and after. Writes "
            "OUT/adapter (what was trained), OUT/model (all of it, for cfsam segment --checkpoint OUT/model), "
            "OUT/finetune.md and .json (scores and settings), OUT/before_after.png, OUT/before and OUT/after (scores "
            "with intervals, and of single tiles) and OUT/report.html (curves)."
        ),
        epilog=(
            "The same command again goes on from the last checkpoint, whatever ended it. In QuPath: File, Export "
            "objects as GeoJSON, one file per image, named as the image. The classes of the nuclei are the types; "
            "annotations of the class Region* bound the area in which all nuclei are outlined, Ignore* leaves areas "
            "out; an image without nuclei needs an export too. Whatever is wrong with the input is told before "
            "anything is written. Decoding parameters are the checkpoint's before and after."
        ),
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument(
        "--annotations",
        metavar="DIR_OR_GEOJSON",
        help="folder with STEM.geojson, or with label maps STEM_instances.png (or STEM.png) and optional "
        "STEM_types.png; or one GeoJSON file (default: the folder of the images)",
    )
    parser.add_argument(
        "--from",
        dest="checkpoint",
        default="cfsam-tiny",
        metavar="CHECKPOINT",
        help="what is trained on: cfsam-tiny (the bundled one, and the default), or folder or Hugging Face Hub id of "
        "a CF-SAM model or of a SAM",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the run: new or empty")
    parser.add_argument(
        "--mpp", type=_positive(float), help="pixel size of the images in micrometres (default: as the checkpoint's)"
    )
    parser.add_argument(
        "--types",
        metavar="A,B,C",
        help="names of the types, in order (default: the classes found; needed for STEM_types.png)",
    )
    parser.add_argument(
        "--annotated-only", action="store_true", help="leave images without annotation out (default: an error)"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--held-out", nargs="+", metavar="STEM", help="images that are held out for the scores (default: drawn)"
    )
    part.add_argument(
        "--held-out-share",
        type=_share,
        default=0.2,
        metavar="P",
        help="share of the images that is drawn; of a single image an end with that share of its nuclei (default: .2)",
    )
    part.add_argument("--no-held-out", action="store_true", help="train on all images; there are no scores then")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, the crops and new weights (default: 0)")
    parser.add_argument("--steps", type=_positive(int), metavar="N", help="steps of training (default: 600)")
    parser.add_argument(
        "--minutes", type=_positive(float), metavar="M", help="no more steps than fit into M minutes, by timing some"
    )
    parser.add_argument("--batch-size", type=_positive(int), metavar="N", help="crops per step (default: 8)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that make crops (default: 1)")
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        help="YAML recipe in place of the built-in one (examples/recipes/own_data.yaml); its base, data, output_dir "
        "are not read",
    )
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU even if there is a GPU")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="coco, conic, consep, cpm15, cpm17, instance_pairs (images with label maps), kumar, lizard, monusac, "
        "monuseg, nuinsseg, pannuke, parquet (what `convert` writes), puma, qupath (images with GeoJSON) or tnbc",
    )
    parser.add_argument("path", metavar="PATH", help="folder of the download")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting of the reader, such as types=raw or mpp=0.5; can be given several times",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_views(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 2, 4, 8),
        help="let the network see the image in so many views and average them: 2 also turned by 180 degrees, 4 all "
        "flips, 8 also with rows and columns swapped, each with tiles that begin elsewhere; takes that many times as "
        "long, and more on small images (default: 1)",
    )


def _add_autocast(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--autocast",
        choices=("bfloat16", "float16"),
        help="run the network in mixed precision: faster where the processor or GPU computes with such numbers; "
        "float16 is for GPUs (default: float32)",
    )


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="write a checkpoint as a folder that describes itself, for the Hub",
        description=(
            "Writes a folder with configuration, weights, processor, their code, handler.py, requirements.txt and a "
            "card. It loads wherever transformers is installed, with trust_remote_code=True; the folder appears when "
            "it is complete."
        ),
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hugging Face Hub id of a CF-SAM model")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--card", metavar="FILE", help="the card (default: README.md of CHECKPOINT, else made from its configuration)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an exported folder that is there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_push(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "push",
        help="send an exported folder to the Hugging Face Hub",
        description=(
            "Sends a folder of `cfsam export` to the Hugging Face Hub (or to HF_ENDPOINT) as one commit. A new "
            "repository is private. The token is that of `hf auth login` or HF_TOKEN."
        ),
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder that `cfsam export` wrote")
    parser.add_argument("repository", metavar="NAMESPACE/NAME", help="where to: a user or organisation, and a name")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument(
        "--update",
        action="store_true",
        help=(
            "add a commit to a repository that is there; it also removes the repository's top-level .py, .json and "
            ".safetensors files that FOLDER lacks"
        ),
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    parser.add_argument("--message", help="message of the commit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _positive(kind: type):
    """An argparse type: a finite number of the given kind above 0."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(
                f"must be a{' whole' if kind is int else ''} number above 0, got {text!r}"
            )
        return value

    return parse


def _setting(text: str) -> tuple[str, float]:
    """An argparse type: a name and a number."""
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.isdecimal() else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE with a number, got {text!r}") from None


def _share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def _size(text: str) -> int:
    """An argparse type: a number of bytes, with the unit KB, MB or GB of thousands."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    unit = units.get(text[-2:].upper(), 1)
    return max(1, round(_positive(float)(text[:-2] if unit > 1 else text) * unit))
