"""Runs a system on tiles and scores it, in one process or in several."""

import time
from collections.abc import Callable, Sequence

from ..data import TileRecord
from .processes import Processes
from .scoring import TileScore, compare_types_of_all_or_none, score_tile
from .systems import System


def evaluate_records(
    records: Sequence[TileRecord],
    system: System,
    processes: Processes | None = None,
    *,
    progress: Callable[[TileScore], None] | None = None,
) -> list[TileScore]:
    """Scores a system on tiles.

    Every process works through its share tile by tile and gets the scores of all tiles. Tiles do not influence each
    other: on a CPU with as many threads per process, the scores equal those of a single process bit for bit.

    Args:
        records: the tiles.
        system: the system.
        processes: those that share the work; by default this process alone.
        progress: called with each score of this process's share.

    Returns:
        Scores in the order of the records.

    Raises:
        ValueError: there are no tiles, or a prediction does not fit its tile.
        OSError: a tile or prediction cannot be read.
    """
    if not records:
        raise ValueError("no tiles to evaluate")
    processes = processes or Processes()
    found = []
    for place, record in processes.share(records):
        tile = record.load()
        began = time.perf_counter()
        prediction = system.predict(tile)
        seconds = time.perf_counter() - began if system.computes else float("nan")
        score = score_tile(tile, prediction, seconds=seconds)
        found.append((place, score))
        if progress is not None:
            progress(score)
    return compare_types_of_all_or_none(processes.gather(found))
