"""Decides which pictures in a folder are images and which are label maps, by the names that other tools give them."""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from ...files.own_results import is_own_result
from ..problems import refuse
from .files import OME, images_by_stem, natural_key

INSTANCES = "_instances"
TYPES = "_types"

LABEL_ENDINGS = (
    INSTANCES,
    *("_cp_masks", "_masks", "_labels", "_label", "_instance", "_inst", "_labelled", "_labeled", "_label_map"),
    *("-labels", "-label", "-labelled", "-labeled", "-masks", "-lbl", ".labels", ".label", ".masks"),
    *("_seg", "_segmentation", "_mask", "-mask", ".mask", "_gt"),
)
"""From this package, Cellpose, StarDist, QuPath's export scripts, MorphoLibJ and others, in order of preference."""

OTHER_ENDINGS = (
    *("_overlay", "_outlines", "_cp_outlines", "_cp_output", "_flows", "_cp_flows", "_dP", "_cellprob"),
    *("_prob", "_probabilities"),
)
"""Pictures that such tools write beside the label maps."""

ARRAY = ".npy"
PICKLED = "_seg.npy"
"""What Cellpose's graphical interface saves: a pickle, which can run code when it is opened."""


def part_pictures(folder: Path) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """Returns the images, label maps and type maps that lie side by side in a folder, each by the image's stem.

    A picture named like another one with an ending in `LABEL_ENDINGS` is a label map. One with an ending in
    `OTHER_ENDINGS` is ignored, and so are all results of this package except label maps and type maps.
    """
    pictures = _pictures(folder)
    bases = {stem: _base(stem, pictures) for stem in pictures}
    images = {
        stem: file
        for stem, file in pictures.items()
        if bases[stem] is None and file.suffix.lower() != ARRAY and not is_own_result(file)
    }
    return images, _by_preference(pictures, bases), _types(pictures, images)


def image_files(folder: Path) -> dict[str, Path]:
    """Returns the images of a folder by stem, without label maps, type maps and results of this package."""
    return part_pictures(folder)[0]


def label_files(
    folder: Path, images: Iterable[str], prefer_named: bool = False
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Returns the label maps and type maps in a separate folder, by the stem of the matching image if there is one.

    Args:
        folder: the folder that holds them.
        images: stems of the images. A label map has the image's stem, with or without one of `LABEL_ENDINGS`.
        prefer_named: ignore other pictures if label maps end in `_instances`.
    """
    known, pictures = set(images), _pictures(folder)
    named = prefer_named and any(stem.removesuffix(OME).endswith(INSTANCES) for stem in pictures)
    bases: dict[str, str | None] = {}
    for stem in pictures:
        plain = stem.removesuffix(OME)
        if plain.endswith(TYPES) or (named and not plain.endswith(INSTANCES)):
            continue
        candidates = [stem, plain, *(plain.removesuffix(ending) for ending in LABEL_ENDINGS if plain.endswith(ending))]
        fitting = [_of_image(base, known) for base in candidates if _of_image(base, known) in known]
        if fitting or not plain.endswith(OTHER_ENDINGS):
            bases[stem] = fitting[0] if fitting else candidates[-1]
    return _by_preference(pictures, bases), _types(pictures, known)


def refuse_pickles(folder: Path, stems: Iterable[str]) -> None:
    """Refuses an image that has no label map except Cellpose's own file."""
    for stem in stems:
        if (file := folder / f"{stem}{PICKLED}").is_file():
            refuse(
                ValueError(
                    f"{file}: Cellpose's own file is a Python pickle and is not read, since it can run code; save the "
                    "masks as PNG or TIFF (in Cellpose: File, Save masks; on the command line: --save_png)"
                )
            )


def refuse_unknown_names(images: Mapping[str, Path], labels: Mapping[str, Path]) -> None:
    """Refuses a picture that is probably a label map, by the name of an image and an ending that is not known."""
    missing = [stem for stem in images if stem not in labels]
    for stem in missing:
        base = next((other for other in missing if stem.startswith(tuple(f"{other}{mark}" for mark in "_-. "))), None)
        if base is not None:
            refuse(
                ValueError(
                    f"{images[stem]}: neither it nor {images[base].name} has a label map; if it is the label map of "
                    f"{images[base].name}, name it {base}{INSTANCES}{images[stem].suffix}"
                )
            )


def _pictures(folder: Path) -> dict[str, Path]:
    """Pictures and arrays by stem; a picture takes precedence over an array of the same stem."""
    arrays = {file.stem: file for file in folder.glob(f"*{ARRAY}") if not file.name.endswith(PICKLED)}
    pictures = arrays | images_by_stem(folder)
    return {stem: pictures[stem] for stem in sorted(pictures, key=natural_key)}


def _types(pictures: Mapping[str, Path], images: Container[str]) -> dict[str, Path]:
    stems = {stem: stem.removesuffix(OME) for stem in pictures}
    return {
        _of_image(plain.removesuffix(TYPES), images): pictures[stem]
        for stem, plain in stems.items()
        if plain.endswith(TYPES)
    }


def _base(stem: str, pictures: Mapping[str, Path]) -> str | None:
    """The image that a derived picture belongs to; None for an image."""
    plain = stem.removesuffix(OME)
    for ending in (INSTANCES, TYPES):
        if plain.endswith(ending):
            return _of_image(plain.removesuffix(ending), pictures)
    fitting = (plain.removesuffix(ending) for ending in (*LABEL_ENDINGS, *OTHER_ENDINGS) if plain.endswith(ending))
    return next((_of_image(base, pictures) for base in fitting if _of_image(base, pictures) in pictures), None)


def _of_image(base: str, images: Container[str]) -> str:
    """The stem of the image with this name, which may be an OME-TIFF (`a.ome.tif` has the stem `a.ome`)."""
    return f"{base}{OME}" if base not in images and f"{base}{OME}" in images else base


def _by_preference(pictures: Mapping[str, Path], bases: Mapping[str, str | None]) -> dict[str, Path]:
    """Chooses one label map for each image among those whose names fit."""
    chosen: dict[str, Path] = {}
    for ending in (*LABEL_ENDINGS, ""):
        for stem, base in bases.items():
            if base is not None and stem.removesuffix(OME) in (base + ending, base.removesuffix(OME) + ending):
                chosen.setdefault(base, pictures[stem])
    return {base: chosen[base] for base in sorted(chosen, key=natural_key)}
