"""`cfsam export`: writes a checkpoint as a self-describing folder, or its network as an ONNX file."""

import argparse
from pathlib import Path

from .loading import load_pipeline
from .messages import one_line
from .options import add_debug_option, add_mpp_option
from .terminal import EXIT_OK, UsageError, say


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam export` and its options."""
    parser = subparsers.add_parser(
        "export",
        help="write a checkpoint as a self-describing folder, for the Hub, or as an ONNX file",
        description=(
            "Writes a folder with configuration, weights, processor, their code, handler.py, requirements.txt and a "
            "card. The folder loads wherever transformers is installed, with trust_remote_code=True, and appears when "
            "it is complete. --onnx writes the network alone, as one file for other runtimes, with any height, "
            "width and batch, after its maps have been compared with torch's; with --int8, its convolutions compute "
            "with 8-bit numbers."
        ),
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="bundled checkpoint, folder or Hugging Face Hub id")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--onnx", metavar="FILE", help="write the network as this ONNX file (needs the extra onnxruntime)"
    )
    parser.add_argument(
        "--int8",
        nargs="+",
        metavar="IMAGE",
        help="with --onnx: quantise convolutions to 8 bits, with ranges measured on these images or folders, "
        "about ten of the kind that will be segmented; nuclei change a little. Give it after CHECKPOINT and FOLDER",
    )
    add_mpp_option(parser)
    parser.add_argument(
        "--card",
        metavar="FILE",
        help="model card (default: README.md of CHECKPOINT, or else generated from its configuration)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing exported folder or file")
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports the checkpoint; returns the exit status."""
    if not (args.folder or args.onnx):
        raise UsageError("give FOLDER or --onnx FILE")
    if args.int8 and not args.onnx:
        raise UsageError("--int8 is for the file of --onnx")
    if args.mpp is not None and not args.int8:
        raise UsageError("--mpp is the pixel size of the images of --int8")
    from ..publish import export_for_hub
    from ..publish.onnx_export import export_onnx
    from ..publish.push import human_bytes

    images = _images(args) if args.int8 else None
    pipe = load_pipeline(args.checkpoint, "cpu")
    if args.onnx:
        file = export_onnx(pipe, args.onnx, int8_images=images, mpp=args.mpp, overwrite=args.overwrite)
        print(f"{human_bytes(file.stat().st_size)} -> {one_line(str(file))}")
    if args.folder:
        folder = export_for_hub(pipe, args.folder, card=args.card, overwrite=args.overwrite)
        files = [path for path in folder.iterdir() if path.is_file()]
        size = human_bytes(sum(path.stat().st_size for path in files))
        print(f"{len(files)} files, {size} -> {one_line(str(folder))}")
    return EXIT_OK


def _images(args: argparse.Namespace) -> list[Path]:
    """The images of `--int8`."""
    from ..inference import ImageSource, collect_images

    paths: list[Path] = []
    # One by one, since images of the same name in several folders are no problem here.
    for text in args.int8:
        found = collect_images([text], Path(args.onnx))
        if found.problems:
            raise ValueError("; ".join(found.problems))
        for note in found.notes:
            say(f"note: {note}")
        paths += [job.source.path for job in found.jobs if isinstance(job.source, ImageSource)]
    return paths
