"""Turns files, folders and patterns into jobs: images, and the names of their results."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..files.own_results import is_own_result
from ..model.pictures import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES
from ..slides.formats import SLIDE_SUFFIXES, is_slide, parts_of_slides
from .slide_source import SlideSource
from .sources import ImageSource, Job

# Files that public data sets put beside an image X and that are not images to segment.
COMPANION_ENDINGS = ("_instances", "_overlay")
# Slide formats without a reader. In some of them, Pillow would mistake the thumbnail for the slide.
UNREADABLE_SLIDES = frozenset((".zvi", ".isyntax"))
READABLE = frozenset((*IMAGE_SUFFIXES, *SLIDE_SUFFIXES))
SLIDE_ADVICE = "cannot be read; convert it to a pyramidal TIFF, for instance with QuPath or libvips"


@dataclass
class Collection:
    """What the inputs name.

    Attributes:
        jobs: the images, in the order of the inputs, sorted within each, every file once.
        problems: a sentence for each input or file that cannot be processed.
        notes: sentences about files in folders that are left out.
    """

    jobs: list[Job] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect_images(
    inputs: Sequence[str],
    output: Path,
    *,
    page: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Collection:
    """Finds the images that the inputs name.

    Results of this package are never among them, whatever their folder and name.

    Args:
        inputs: files (of any ending), folders (searched with their sub-folders for images and slides, without hidden
            files), and patterns.
        output: the folder of the results, which is not searched if it lies within a folder of `inputs`.
        page, max_pixels: as in [`ImageSource`].
    """
    collection = Collection()
    found: dict[str, tuple[Path, PurePath]] = {}
    results: list[Path] = []
    for text in inputs:
        try:
            pairs = _expand(text, output, collection)
        except OSError as error:
            collection.problems.append(f"{text}: {error.strerror or error}")
            continue
        for path, relative in pairs:
            if is_own_result(path):
                results.append(path)
            else:
                found.setdefault(os.path.abspath(path), (path, relative))
    if results:
        some = ", ".join(str(path) for path in results[:3]) + (", ..." if len(results) > 3 else "")
        collection.notes.append(f"left out {_files(len(results))} that cfsam wrote as results: {some}")
    first: dict[PurePath, Path] = {}
    for path, relative in found.values():
        if relative in first:
            collection.problems.append(
                f"{path}: would write the same files as {first[relative]}; give the folder above both, whose "
                "sub-folders are mirrored, or segment it in another run with another output folder"
            )
        else:
            first[relative] = path
    targets = output_names(list(first))
    collection.jobs = [
        Job(ImageSource(path, _as_text(relative), page, max_pixels), targets[relative])
        for relative, path in first.items()
    ]
    return collection


def split_slides(
    jobs: Iterable[Job], *, mpp: float | None = None, all_slides: bool = False
) -> tuple[list[Job], list[Job]]:
    """Separates slides from images by their content.

    Args:
        jobs: of [`collect_images`].
        mpp: micrometres per pixel of level 0 of the slides, in place of what they state.
        all_slides: whether to process every image as a slide.

    Returns:
        The jobs of images, and those of slides. A page of a file, and a tile of a larger image, are always images.
    """
    images: list[Job] = []
    slides: list[Job] = []
    for job in jobs:
        source = job.source
        is_whole = isinstance(source, ImageSource) and source.page is None and job.placement is None
        if isinstance(source, ImageSource) and is_whole and (all_slides or is_slide(source.path)):
            slides.append(Job(SlideSource(source.path, source.name, mpp, source.max_pixels), job.target))
        else:
            images.append(job)
    return images, slides


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


def _as_text(path: PurePath) -> str:
    """A path as text for people and files, with bytes that are not valid text (Linux allows them) escaped."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _expand(text: str, output: Path, collection: Collection) -> list[tuple[Path, PurePath]]:
    """The images of one input, each with its path relative to the folder that is mirrored."""
    path = Path(text)
    if not text:
        collection.problems.append("an INPUT is empty; give a file, a folder or a pattern")
        return []
    if path.is_dir():
        pairs = _search(path, path, output, collection)
        if not pairs:
            collection.problems.append(f"{text}: no images in this folder (looked for {' '.join(sorted(READABLE))})")
        return pairs
    if os.path.lexists(path):
        if path.suffix.lower() in UNREADABLE_SLIDES:
            collection.problems.append(f"{text}: a slide of this format {SLIDE_ADVICE}")
            return []
        return [(path, PurePath(path.name))]
    if not glob.has_magic(text):
        collection.problems.append(f"{text}: no such file or folder")
        return []
    return _match(path, output, collection)


def _match(pattern: Path, output: Path, collection: Collection) -> list[tuple[Path, PurePath]]:
    """The images of a pattern."""
    text, parts = str(pattern), pattern.parts
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:plain])
    pairs: list[tuple[Path, PurePath]] = []
    slides: list[PurePath] = []
    others = 0
    for match in _without_loops(map(Path, sorted(glob.glob(text, recursive=True))), root):
        if match.is_dir():
            # "**" also gives the folders themselves; what is in them is matched on its own.
            pairs += [] if "**" in text else _search(match, root, output, collection)
        elif match.suffix.lower() in READABLE:
            pairs.append((match, match.relative_to(root)))
        elif match.suffix.lower() in UNREADABLE_SLIDES:
            slides.append(match)
        else:
            others += 1
    collection.notes += _notes_on_slides(text, slides)
    if not pairs:
        reason = f"none of the {_files(others)} that match this pattern is an image" if others else ""
        collection.problems.append(f"{text}: {reason or 'no image matches this pattern'}")
    return pairs


def _without_loops(matches: Iterable[Path], root: Path) -> Iterator[Path]:
    """The paths without those that lead through a link to a folder above them: "**" follows such a link 40 times."""
    loops: dict[Path, bool] = {}
    for match in matches:
        parent = match.parent
        if parent not in loops:
            depth = 1 + len(parent.parts) - len(root.parts)
            real = [os.path.realpath(folder) for folder in (parent, *parent.parents)[:depth]]
            loops[parent] = len(set(real)) < len(real)
        if not loops[parent]:
            yield match


def _search(folder: Path, root: Path, output: Path, collection: Collection) -> list[tuple[Path, PurePath]]:
    """All images below a folder, sorted, with their paths relative to `root`."""

    def unreadable(error: OSError) -> None:
        collection.problems.append(f"{error.filename}: {error.strerror}")

    target = os.path.realpath(output)
    pairs: list[tuple[Path, PurePath]] = []
    slides: list[PurePath] = []
    links: list[str] = []
    for parent, subfolders, files in os.walk(folder, onerror=unreadable):
        links += [path for name in sorted(subfolders) if os.path.islink(path := os.path.join(parent, name))]
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != target
        )
        names = [PurePath(n) for n in sorted(files) if not n.startswith(".")]
        parts = parts_of_slides(Path(parent), names)
        subfolders[:] = [name for name in subfolders if name not in parts]
        names = [name for name in names if str(name) not in parts]
        slides += [name for name in names if name.suffix.lower() in UNREADABLE_SLIDES]
        names = [name for name in names if name.suffix.lower() in READABLE]
        stems = {name.stem for name in names}
        pairs += [
            (Path(parent, name), Path(parent, name).relative_to(root))
            for name in names
            if not _is_companion(name, stems)
        ]
    collection.notes += _notes_on_slides(str(folder), slides)
    if links:
        some = ", ".join(links[:3]) + (", ..." if len(links) > 3 else "")
        collection.notes.append(f"{folder}: links to folders are not followed; name them to include them: {some}")
    return pairs


def _notes_on_slides(place: str, slides: Iterable[PurePath]) -> list[str]:
    counts = Counter(slide.suffix.lower() for slide in slides)
    return [
        f"{place}: left out {_files(count)} ending in {suffix}: a slide of this format {SLIDE_ADVICE}"
        for suffix, count in sorted(counts.items())
    ]


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _is_companion(name: PurePath, stems: set[str]) -> bool:
    """Whether a file is the label map or overlay of another image in its folder."""
    return any(name.stem.endswith(end) and name.stem[: -len(end)] in stems for end in COMPANION_ENDINGS)
