"""The readers by the name of their data set: `list_tiles` lists the tiles of a data set on disk."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

from .readers.coco import list_coco
from .readers.conic import list_conic
from .readers.consep import list_consep
from .readers.cpm15 import list_cpm15
from .readers.crchisto import list_crchisto
from .readers.hovernet_folders import list_cpm17, list_kumar
from .readers.instance_pairs import list_instance_pairs
from .readers.lizard import list_lizard
from .readers.mask_folders import list_mask_folders
from .readers.monusac import list_monusac
from .readers.monuseg import list_monuseg
from .readers.nuinsseg import list_nuinsseg
from .readers.pannuke import list_pannuke
from .readers.parquet import list_parquet
from .readers.puma import list_puma
from .readers.qupath import list_qupath
from .readers.tnbc import list_tnbc
from .records import TileRecord

READERS: dict[str, Callable[..., list[TileRecord]]] = {
    "coco": list_coco,
    "conic": list_conic,
    "consep": list_consep,
    "cpm15": list_cpm15,
    "cpm17": list_cpm17,
    "crchisto": list_crchisto,
    "instance_pairs": list_instance_pairs,
    "kumar": list_kumar,
    "lizard": list_lizard,
    "mask_folders": list_mask_folders,
    "monusac": list_monusac,
    "monuseg": list_monuseg,
    "nuinsseg": list_nuinsseg,
    "pannuke": list_pannuke,
    "parquet": list_parquet,
    "puma": list_puma,
    "qupath": list_qupath,
    "tnbc": list_tnbc,
}
"""Functions `(path, split=None, **options) -> list[TileRecord]` by the name of the data set."""


def list_tiles(name: str, path: str | Path, split: str | None = None, **options: Any) -> list[TileRecord]:
    """Lists the tiles of a data set that is on disk in its official layout; no pixel is read yet.

    Args:
        name: one of `READERS`.
        path: folder of the download.
        split: keep the tiles of this official split; None keeps all.
        options: settings of the reader, see its function (`READERS[name]`).

    Returns:
        Records in natural order of their ids; `record.load()` reads one.

    Raises:
        ValueError: the name is unknown, or the reader refuses something.
        OSError: a file is missing.

    Example:

    ```python
    >>> tiles = list_tiles("consep", "CoNSeP", split="train")  # doctest: +SKIP
    >>> tiles[0].load().instance_map.shape  # doctest: +SKIP
    (1000, 1000)
    ```
    """
    check_options(name, options)
    return READERS[name](path, split=split, **options)


def check_options(name: str, options: Iterable[str]) -> None:
    """Raises ValueError if there is no reader `name`, or if it does not have one of these options."""
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(sorted(READERS))}")
    parameters = inspect.signature(READERS[name]).parameters
    known = [option for option in parameters if option not in ("path", "split")]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in known:
            raise ValueError(f"the reader {name} has no option {option!r}; it has {', '.join(known) or 'none'}")


def option_choices(name: str, option: str) -> tuple[str, ...]:
    """The values that the signature of the reader `name` lists for an option; none if it lists none."""
    parameter = inspect.signature(READERS[name]).parameters.get(option) if name in READERS else None
    return () if parameter is None else get_args(parameter.annotation)
