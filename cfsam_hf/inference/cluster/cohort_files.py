"""The files of a whole study beside those of its slides: a table, a page, and one data set of all nuclei."""

from collections.abc import Mapping, Sequence

from ...files.local_folder import LocalFolder
from ...files.remote_folder import RemoteFolder
from ...outputs.cohort import (
    COHORT_PAGE,
    COHORT_TABLE,
    PARTITIONS,
    CohortSlide,
    cohort_csv,
    cohort_page,
    partition_name,
)
from ..record import Entry
from ..slide_sink import SLIDE_KINDS

PART = "nuclei.parquet"


def write_cohort(
    place: LocalFolder | RemoteFolder, entries: Sequence[Entry], failed: Mapping[str, str], title: str
) -> None:
    """
    Writes `cohort.csv`, `cohort.html` and the data set `nuclei/slide=NAME/nuclei.parquet`.

    The data set has a second name of each slide's table, not a copy, where the file system allows that. Partitions of
    slides that are no longer in the folder are removed.

    Args:
        place: the output folder.
        entries: the slides that are complete in it.
        failed: the errors of slides that failed, by name.
        title: of the page.

    Raises:
        OSError: a file cannot be written.
    """
    overview, table = (SLIDE_KINDS[kind].ending(0) for kind in ("overview", "table"))
    slides, parts = [], {}
    for entry in entries:
        if entry.image in failed:
            continue
        found = next((name for name in entry.files if name.endswith(overview)), None)
        slides.append(CohortSlide(entry.image, entry.rows, found, entry.seconds))
        parts[partition_name(entry.image)] = f"{entry.target}{table}"
    slides += [CohortSlide(name, error=error) for name, error in failed.items()]
    slides.sort(key=lambda slide: slide.name)
    for name in place.names(PARTITIONS):
        if name.startswith("slide=") and name not in parts:
            place.remove(f"{PARTITIONS}/{name}")
    for name, source in parts.items():
        place.copy(source, f"{PARTITIONS}/{name}/{PART}")
    place.write(COHORT_TABLE, cohort_csv(slides).encode())
    place.write(COHORT_PAGE, cohort_page(slides, title).encode())
