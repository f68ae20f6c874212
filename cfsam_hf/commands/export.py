"""`cfsam export`: a checkpoint as a folder that describes itself."""

import argparse

from .loading import load_pipeline
from .terminal import EXIT_OK


def run_export(args: argparse.Namespace) -> int:
    """Does what the parsed arguments of `cfsam export` say; returns the exit status."""
    from ..publish import export_for_hub
    from ..publish.push import human_bytes

    pipe = load_pipeline(args.checkpoint, "cpu")
    folder = export_for_hub(pipe, args.folder, card=args.card, overwrite=args.overwrite)
    files = [path for path in folder.iterdir() if path.is_file()]
    print(f"{len(files)} files, {human_bytes(sum(path.stat().st_size for path in files))} -> {folder}")
    return EXIT_OK
