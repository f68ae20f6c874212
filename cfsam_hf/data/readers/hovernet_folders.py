"""Kumar (Kumar et al. 2017) and CPM-17 (Vu et al. 2019) as HoVer-Net's authors distribute them: no types."""

from pathlib import Path

from ..records import Tile, TileRecord, make_tile
from .array_files import read_mat
from .files import images_by_stem, pair_files, read_image
from .listing import check_split, finish_listing
from .monuseg import organ_of

KUMAR_SPLITS = ("train", "test_same", "test_diff")
CPM17_SPLITS = ("train", "test")


def list_kumar(
    path: str | Path, split: str | None = None, mpp: float = 0.25, allow_empty: bool = False
) -> list[TileRecord]:
    """Lists the Kumar tiles: `{train,test_same,test_diff}/{Images/*.tif,Labels/*.mat}`, 1000 px at 40x.

    The organ comes from MoNuSeg's table by the patient in the file name. Kumar's 30 patients, those of its test tiles
    included, are the patients of MoNuSeg's training set, but tiles with the same name can be different images.

    Args:
        path: folder that holds the three splits.
        split: "train", "test_same" (organs of the training set) or "test_diff" (other organs); all if None.
        mpp: micrometres per pixel.
        allow_empty: accept tiles without nuclei.

    Raises:
        OSError: nothing is there or one file of a pair is missing.
        ValueError: the split is unknown, or two tiles have the same name.
    """
    return _list_splits("kumar", path, split, KUMAR_SPLITS, mpp, allow_empty)


def list_cpm17(
    path: str | Path, split: str | None = None, mpp: float | None = None, allow_empty: bool = False
) -> list[TileRecord]:
    """Lists the CPM-17 tiles: `{train,test}/{Images/*.png,Labels/*.mat}`, 500 to 600 px.

    Args:
        path: folder that holds the two splits.
        split: "train" or "test"; both if None.
        mpp: micrometres per pixel. The tiles are 20x or 40x and the files do not state which, so it is unknown.
        allow_empty: accept tiles without nuclei.

    Raises:
        OSError, ValueError: as `list_kumar`.
    """
    return _list_splits("cpm17", path, split, CPM17_SPLITS, mpp, allow_empty)


def decode_hovernet(record: TileRecord) -> Tile:
    """Reads one tile: `inst_map` of the `.mat` file and the image of the same stem."""
    return make_tile(record, read_image(record.image_path), read_mat(record.label_path, ("inst_map",))["inst_map"])


def _list_splits(
    dataset: str, path: str | Path, split: str | None, known: tuple[str, ...], mpp: float | None, allow_empty: bool
) -> list[TileRecord]:
    check_split(split, known, dataset)
    root = Path(path)
    records: list[TileRecord] = []
    for fold in known:
        # Copies in circulation write the folders in lower or upper case.
        for name in (fold, fold.capitalize()):
            if (root / name / "Labels").is_dir():
                records += list_mat_folder(dataset, root / name, fold, mpp, allow_empty)
                break
    return finish_listing(records, split, root, f"the layout {{{','.join(known)}}}/{{Images,Labels}}")


def list_mat_folder(
    dataset: str, folder: Path, fold: str | None, mpp: float | None, allow_empty: bool
) -> list[TileRecord]:
    """Lists the pairs of `folder/Images` and `folder/Labels/*.mat`; names of CPM-17's tiles begin with their fold."""
    images = images_by_stem(folder / "Images")
    labels = {file.stem: file for file in (folder / "Labels").glob("*.mat") if not file.name.startswith(".")}
    pairs = pair_files(images, labels, ".mat file", folder / "Images", folder / "Labels")
    # The splits of CPM-17 both number their tiles from 0, so there the name alone would not be unique.
    prefix = f"{fold}_" if dataset == "cpm17" else ""
    return [
        TileRecord(
            dataset=dataset,
            id=prefix + stem,
            image_path=image,
            label_path=label,
            decode=decode_hovernet,
            tissue=organ_of(stem) if dataset == "kumar" else None,
            mpp=mpp,
            fold=fold,
            allow_empty=allow_empty,
        )
        for stem, (image, label) in pairs.items()
    ]
