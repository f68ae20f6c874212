"""CRCHistoPhenotypes (Sirinukunwattana et al. 2016): 100 tiles of 500 px of colorectal H&E at 20x, typed points."""

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from ..problems import refuse
from ..records import UNKNOWN_TYPE, Tile, TileRecord, make_tile
from .array_files import read_mat
from .files import images_by_stem, natural_key, pair_files, read_image
from .listing import check_split, finish_listing, subfolders
from .text_files import read_csv

POINTS = "_points.csv"
TYPES = {1: "miscellaneous", 2: "inflammatory", 3: "epithelial", 4: "fibroblast"}
MAT_TYPES = {"others": 1, "inflammatory": 2, "epithelial": 3, "fibroblast": 4}
"""The official files, one for each type: `img1_others.mat`, ..."""

SAME_POINT = 1.0
"""Pixels within which a detection and a typed point are one nucleus: the official files hold typed nuclei twice."""

RADIUS = 2.0
"""Micrometres: smaller than half of a small lymphocyte, so that a disc lies within its nucleus."""

LAYOUT = f"folders Classification and Detection, or images with <stem>{POINTS}"


def list_crchisto(
    path: str | Path,
    split: str | None = None,
    mpp: float = 0.55,
    radius: float = RADIUS,
    allow_empty: bool = False,
) -> list[TileRecord]:
    """List the tiles of CRCHistoPhenotypes.

    Either the official download, `Classification/img1/img1.bmp` with `img1_epithelial.mat`, `img1_fibroblast.mat`,
    `img1_inflammatory.mat` and `img1_others.mat`, and `Detection/img1/img1_detection.mat`, whose tiles are named
    `crc_img1`, ...; or images with `<stem>_points.csv` of the columns `x`, `y` (pixels from the top left corner) and
    `type`: 1 miscellaneous, 2 inflammatory, 3 epithelial, 4 fibroblast, 0 or empty for a nucleus without type.

    A tile's `instance_map` holds a disc around each point, not an outline, and `Tile.points` says so: such tiles train
    types alone and cannot be scored. Where discs meet, a pixel belongs to the nearest point. Endothelial nuclei are
    among the miscellaneous ones here, while CoNSeP counts them as spindle-shaped.

    Args:
        path: the folder, or one that holds it.
        split: must be None, there are no official splits.
        mpp: micrometres per pixel; the authors state 20x and .55.
        radius: of the discs, in micrometres.
        allow_empty: accept tiles without points.

    Raises:
        OSError: if nothing is there or a file of a tile is missing.
        ValueError: for a split, or a radius that is not positive.
    """
    check_split(split, (), "CRCHistoPhenotypes")
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius must be a positive number of micrometres, got {radius!r}")
    root = Path(path)
    folders = subfolders(root)
    official = next((folder for folder in folders if (folder / "Classification").is_dir()), None)
    if official is not None:
        pairs = _official_files(official)
    else:
        pairs = {}
        folder = next((folder for folder in folders if any(folder.glob(f"*{POINTS}"))), None)
        if folder is not None:
            points = {file.name.removesuffix(POINTS): file for file in folder.glob(f"*{POINTS}")}
            pairs = pair_files(images_by_stem(folder), points, f"<stem>{POINTS}", folder, folder)
    records = [
        TileRecord(
            dataset="crchisto",
            id=name,
            image_path=image,
            label_path=label,
            decode=decode_crchisto,
            tissue="Colon",
            mpp=mpp,
            type_names=TYPES,
            allow_empty=allow_empty,
            options={"radius": radius / mpp},
            points=True,
        )
        for name, (image, label) in pairs.items()
    ]
    return finish_listing(records, split, root, LAYOUT)


def decode_crchisto(record: TileRecord) -> Tile:
    """Read one tile: discs around the points."""
    image = read_image(record.image_path)
    read = _mat_points if record.label_path.suffix == ".mat" else _csv_points
    positions, types = read(record.label_path)
    instance_map = disc_map(positions, image.shape[:2], record.options["radius"])
    return make_tile(record, image, instance_map, np.append(types, 0)[instance_map - 1])


def disc_map(points: np.ndarray, shape: tuple[int, int], radius: float) -> np.ndarray:
    """Draws discs around points.

    Args:
        points: `(N, 2)` xy in pixels; the centre of the top left pixel is (0.5, 0.5).
        shape: (H, W) of the tile.
        radius: in pixels.

    Returns:
        `(H, W)` int32: 1 + the position of the nearest point where one lies within the radius, else 0.
    """
    if len(points) == 0:
        return np.zeros(shape, dtype=np.int32)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.column_stack([columns.ravel(), rows.ravel()]) + 0.5
    distances, nearest = cKDTree(points).query(centres, distance_upper_bound=np.nextafter(radius, np.inf))
    return np.where(np.isfinite(distances), nearest + 1, 0).reshape(shape).astype(np.int32)


def _official_files(root: Path) -> dict[str, tuple[Path, Path]]:
    """Images, and the files of all detections, by the name of the tile."""
    pairs = {}
    folders = (folder for folder in (root / "Classification").iterdir() if folder.is_dir())
    for folder in sorted(folders, key=lambda found: natural_key(found.name)):
        image = images_by_stem(folder).get(folder.name)
        if image is None:
            refuse(FileNotFoundError(f"{folder}: no image {folder.name}.bmp"))
        else:
            detection = root / "Detection" / folder.name / f"{folder.name}_detection.mat"
            pairs[f"crc_{folder.name}"] = (image, detection)
    return pairs


def _mat_points(detection: Path) -> tuple[np.ndarray, np.ndarray]:
    name = detection.parent.name
    typed_folder = detection.parents[2] / "Classification" / name
    of_type = {i: _mat_positions(typed_folder / f"{name}_{word}.mat") for word, i in MAT_TYPES.items()}
    typed = np.concatenate(list(of_type.values()))
    types = np.repeat(list(of_type), [len(points) for points in of_type.values()])
    others = _mat_positions(detection)
    if len(typed) and len(others):
        others = others[cKDTree(typed).query(others)[0] > SAME_POINT]
    return np.concatenate([typed, others]), np.append(types, np.full(len(others), UNKNOWN_TYPE)).astype(np.int64)


def _mat_positions(path: Path) -> np.ndarray:
    """`(N, 2)` xy of the variable `detection`."""
    values = read_mat(path, ("detection",))["detection"]
    if values.size == 0:
        return np.empty((0, 2))
    if values.ndim != 2 or values.shape[1] != 2 or values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise ValueError(f"{path}: 'detection' must hold x and y of each nucleus, found an array {values.shape}")
    return values.astype(np.float64)


def _csv_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    positions, types = [], []
    for line, row in enumerate(read_csv(path), start=2):
        try:
            position = float(row["x"]), float(row["y"])
            type_id = int(row["type"] or 0)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: line {line} needs numbers in the columns x, y and type, got {row}") from error
        if not np.isfinite(position).all() or not (type_id == 0 or type_id in TYPES):
            raise ValueError(f"{path}: line {line} must have a finite place and a type of 0..{max(TYPES)}, got {row}")
        positions.append(position)
        types.append(type_id or UNKNOWN_TYPE)
    return np.array(positions).reshape(-1, 2), np.array(types, dtype=np.int64)
