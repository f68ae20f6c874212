"""From the arguments of `cfsam segment` to images and the names of their results."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".gif", ".ppm", ".pgm", ".pbm")
)
# What this command and the public data sets write beside an image X: not images to segment.
COMPANION_ENDINGS = ("_instances", "_overlay")

# How options are named in the errors of functions.
OPTION_IN_MESSAGE = re.compile(r"\b(max_pixels|mpp|page)=")


@dataclass(frozen=True)
class ImageJob:
    """One image to do.

    Attributes:
        path: the file.
        name: its name in the outputs, a relative path with "/" (`tile.png`, `case 7/tile.png`), always valid text.
        target: the outputs' common beginning, relative to the output folder (`tile`, `case 7/tile`).
    """

    path: Path
    name: str
    target: PurePath


def collect_images(inputs: Sequence[str], output: Path) -> tuple[list[ImageJob], list[str]]:
    """Finds the images that the arguments name.

    Args:
        inputs: files (taken whatever their ending), folders (searched for images with their sub-folders, hidden files
            left out), and patterns.
        output: the folder of the results, which is not searched when it lies within a folder of `inputs`.

    Returns:
        The jobs in the order of the arguments, sorted within each, every file once; and a line for each argument or
        file that cannot be taken.
    """
    found: dict[str, tuple[Path, PurePath]] = {}
    problems: list[str] = []
    for text in inputs:
        try:
            pairs = _expand(text, output, problems)
        except OSError as error:
            problems.append(f"{text}: {error.strerror or error}")
            continue
        for path, relative in pairs:
            found.setdefault(os.path.abspath(path), (path, relative))
    first: dict[PurePath, Path] = {}
    for path, relative in found.values():
        if relative in first:
            problems.append(
                f"{path}: would write the same files as {first[relative]}; give the folder above both, whose "
                "sub-folders are mirrored, or do it in another run with another output folder"
            )
        else:
            first[relative] = path
    targets = output_names(list(first))
    jobs = [ImageJob(path, _as_text(relative), targets[relative]) for relative, path in first.items()]
    return jobs, problems


def output_names(relatives: Sequence[PurePath]) -> dict[PurePath, PurePath]:
    """The beginning of each image's output names: its path without the ending, or with it where two would be the same.

    >>> [str(p) for p in output_names([PurePath("a.png"), PurePath("a.tif"), PurePath("b.png")]).values()]
    ['a.png', 'a.tif', 'b']

    Args:
        relatives: distinct relative paths.

    Returns:
        A distinct name for each path.
    """
    names = {relative: relative.with_suffix("") for relative in relatives}
    while True:
        count = Counter(names.values())
        # Keeping an ending can meet a third file (a.png, a.tif, a.png.jpg), which then keeps its own as well.
        clashing = [r for r, name in names.items() if count[name] > 1 and name != r]
        if not clashing:
            return names
        for relative in clashing:
            names[relative] = relative


def as_options(text: str) -> str:
    """A message of the package in the words of the command: the options of functions as those of `cfsam segment`.

    >>> as_options("choose one with page=N")
    'choose one with --page N'
    """
    return OPTION_IN_MESSAGE.sub(lambda found: f"--{found[1].replace('_', '-')} ", text)


def _as_text(path: PurePath) -> str:
    """A path for people and files: bytes of a name that are no text (they can be on Linux) are written out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _expand(text: str, output: Path, problems: list[str]) -> list[tuple[Path, PurePath]]:
    """The images of one argument, each with its path relative to what is mirrored."""
    path = Path(text)
    if not text:
        problems.append("an INPUT is empty; give a file, a folder or a pattern")
        return []
    if path.is_dir():
        pairs = _search(path, path, output, problems)
        if not pairs:
            problems.append(f"{text}: no images in this folder (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
        return pairs
    if os.path.lexists(path):
        return [(path, PurePath(path.name))]
    if not glob.has_magic(text):
        problems.append(f"{text}: no such file or folder")
        return []
    parts = path.parts
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:plain])
    pairs = []
    for match in map(Path, sorted(glob.glob(text, recursive=True))):
        if match.is_dir():
            # "**" also gives the folders themselves; what is in them is matched on its own.
            pairs += [] if "**" in text else _search(match, root, output, problems)
        elif match.suffix.lower() in IMAGE_SUFFIXES:
            pairs.append((match, match.relative_to(root)))
    if not pairs:
        problems.append(f"{text}: no image matches this pattern")
    return pairs


def _search(folder: Path, root: Path, output: Path, problems: list[str]) -> list[tuple[Path, PurePath]]:
    """All images below a folder, with their paths relative to `root`, in order."""

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    target = os.path.realpath(output)
    pairs = []
    for parent, subfolders, files in os.walk(folder, onerror=unreadable):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != target
        )
        names = [PurePath(n) for n in sorted(files) if not n.startswith(".")]
        names = [name for name in names if name.suffix.lower() in IMAGE_SUFFIXES]
        stems = {name.stem for name in names}
        pairs += [
            (Path(parent, name), Path(parent, name).relative_to(root))
            for name in names
            if not _is_companion(name, stems)
        ]
    return pairs


def _is_companion(name: PurePath, stems: set[str]) -> bool:
    """Whether a file is the label map or overlay of another image in its folder."""
    return any(name.stem.endswith(end) and name.stem[: -len(end)] in stems for end in COMPANION_ENDINGS)
