"""The files of an evaluation, written together or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..drawing.picture_files import write_picture
from ..files.atomic import staged_folder
from ..files.csv_files import write_csv_file
from ..files.json_files import write_json
from .per_image import per_image_table
from .scoring import TileScore
from .tables import report

RESULTS, TABLES, IMAGES = "results.json", "results.md", "images"


def write_report(
    folder: str | Path,
    record: Mapping[str, Any],
    tiles: Mapping[str, Sequence[TileScore]],
    pages: Mapping[str, Image.Image] | None = None,
) -> None:
    """Writes `results.json`, `results.md`, `images.csv` and `images.parquet`, and `<name>_tiles.png` for each page.

    Args:
        folder: created if it is missing; files of these names are replaced.
        record: of [`cfsam_hf.evaluation.results_record`].
        tiles: scores of the tiles by data set.
        pages: of [`cfsam_hf.evaluation.tiles_page`] by data set.

    Raises:
        OSError: the folder cannot be written to.
    """
    table = per_image_table(tiles)
    with staged_folder(folder) as stage:
        write_json(stage / RESULTS, dict(record))
        (stage / TABLES).write_text(report(record), encoding="utf-8")
        write_csv_file(table, stage / f"{IMAGES}.csv")
        table.to_parquet(stage / f"{IMAGES}.parquet", index=False)
        for name, page in (pages or {}).items():
            write_picture(page, stage / f"{name.replace('/', '_')}_tiles.png")
