"""The table of nuclei as Parquet and CSV."""

import json
import os

import pyarrow
import pyarrow.parquet

from ..files.atomic import atomic_path
from ..files.csv_files import write_csv_file
from ..files.own_results import SOFTWARE
from ..model.result import NucleiResult, provenance

METADATA_KEY = SOFTWARE.encode()


def write_table(result: NucleiResult, path: str | os.PathLike[str]) -> None:
    """Writes the table, one row per nucleus, as Parquet; `pandas.read_parquet` restores it exactly.

    The file's metadata holds the provenance record as JSON under the key `cfsam_hf`
    (`pyarrow.parquet.read_schema(path).metadata[b"cfsam_hf"]`).

    Args:
        result: the nuclei of one image.
        path: the file; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    table = pyarrow.Table.from_pandas(result.table, preserve_index=False)
    record = json.dumps(provenance(result)).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: record})
    # Opened here, since pyarrow takes only names that are valid text.
    with atomic_path(path) as working, open(working, "wb") as file:
        pyarrow.parquet.write_table(table, file, compression="zstd")


def write_csv(result: NucleiResult, path: str | os.PathLike[str]) -> None:
    """Writes the table, one row per nucleus, as CSV with one header line; an unknown value is an empty field.

    CSV has no room for the provenance record: keep the file beside one of the others. Type names that a spreadsheet
    would run as a formula get a leading apostrophe ([`cfsam_hf.files.csv_files.write_csv_file`]).

    Args:
        result: the nuclei of one image.
        path: the file; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    write_csv_file(result.table, path, float_format="%.6g")
