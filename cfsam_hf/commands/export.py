"""`cfsam export`: a checkpoint as a folder that describes itself."""

import argparse

from .loading import load_pipeline
from .options import add_debug_option
from .terminal import EXIT_OK


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam export` and its options."""
    parser = subparsers.add_parser(
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
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does what the parsed arguments of `cfsam export` say; returns the exit status."""
    from ..publish import export_for_hub
    from ..publish.push import human_bytes

    pipe = load_pipeline(args.checkpoint, "cpu")
    folder = export_for_hub(pipe, args.folder, card=args.card, overwrite=args.overwrite)
    files = [path for path in folder.iterdir() if path.is_file()]
    print(f"{len(files)} files, {human_bytes(sum(path.stat().st_size for path in files))} -> {folder}")
    return EXIT_OK
