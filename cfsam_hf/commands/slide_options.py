"""The options of `cfsam segment` that restrict it to a part of a slide."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..inference.slide_plan import WhereToLook


def add_slide_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--tissue`, `--roi` and `--exclude`."""
    group = parser.add_argument_group(
        "whole slides",
        "Files in scanners' formats, TIFF files with several levels, and pictures of more than 64 million pixels are "
        "processed region by region, with little memory, and only where there is tissue. With one of these options, "
        "every image is processed in this way. Coordinates are pixels of the largest level.",
    )
    group.add_argument(
        "--tissue",
        metavar="auto|all|FILE",
        help="where to look for nuclei: in the tissue, which is found by its stain (auto); everywhere (all); or where "
        "a mask image is not black, or in the polygons of a GeoJSON file (default: auto; all with --roi)",
    )
    group.add_argument(
        "--roi", metavar="FILE", help="keep only nuclei in these annotations: GeoJSON as QuPath exports it"
    )
    group.add_argument(
        "--exclude", metavar="FILE", help="leave out nuclei in these annotations, such as folds or pen marks"
    )


def where_to_look(args: argparse.Namespace) -> "WhereToLook":
    """Where to look for nuclei, from the arguments.

    Raises:
        FileNotFoundError: a file is missing.
    """
    from ..inference.slide_plan import ALL, AUTO, WhereToLook

    files = {}
    for option in ("tissue", "roi", "exclude"):
        value = getattr(args, option)
        if value is None or (option == "tissue" and value in (AUTO, ALL)):
            files[option] = value
            continue
        files[option] = Path(value)
        if not files[option].is_file():
            raise FileNotFoundError(f"--{option} {value}: no such file")
    return WhereToLook(**files)


def restricts(args: argparse.Namespace) -> bool:
    """Whether the arguments restrict where to look for nuclei."""
    return any(getattr(args, option) is not None for option in ("tissue", "roi", "exclude"))
