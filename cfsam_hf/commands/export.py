"""`cfsam export`: writes a checkpoint as a self-describing folder."""

import argparse

from .loading import load_pipeline
from .messages import one_line
from .options import add_debug_option
from .terminal import EXIT_OK


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam export` and its options."""
    parser = subparsers.add_parser(
        "export",
        help="write a checkpoint as a self-describing folder, for the Hub",
        description=(
            "Writes a folder with configuration, weights, processor, their code, handler.py, requirements.txt and a "
            "card. The folder loads wherever transformers is installed, with trust_remote_code=True, and appears when "
            "it is complete."
        ),
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hugging Face Hub id of a CF-SAM model")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--card",
        metavar="FILE",
        help="model card (default: README.md of CHECKPOINT, or else generated from its configuration)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing exported folder")
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports the checkpoint; returns the exit status."""
    from ..publish import export_for_hub
    from ..publish.push import human_bytes

    pipe = load_pipeline(args.checkpoint, "cpu")
    folder = export_for_hub(pipe, args.folder, card=args.card, overwrite=args.overwrite)
    files = [path for path in folder.iterdir() if path.is_file()]
    print(f"{len(files)} files, {human_bytes(sum(path.stat().st_size for path in files))} -> {one_line(str(folder))}")
    return EXIT_OK
