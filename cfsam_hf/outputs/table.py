"""The table of nuclei as Parquet and CSV."""

import json
import os

import pyarrow
import pyarrow.parquet

from ..files.atomic import atomic_path
from ..model.result import NucleiResult, provenance

METADATA_KEY = b"cfsam_hf"


def write_table(result: NucleiResult, path: str | os.PathLike) -> None:
    """Writes the table, one row per nucleus, as Parquet; `pandas.read_parquet` gives it back as it was.

    The provenance record stands as JSON under the key `cfsam_hf` of the file's metadata
    (`pyarrow.parquet.read_schema(path).metadata[b"cfsam_hf"]`).

    Args:
        result: the nuclei of one image.
        path: the file to write; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    table = pyarrow.Table.from_pandas(result.table, preserve_index=False)
    record = json.dumps(provenance(result)).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: record})
    # Opened here, since pyarrow takes only names that are valid text.
    with atomic_path(path) as working, open(working, "wb") as file:
        pyarrow.parquet.write_table(table, file, compression="zstd")


def write_csv(result: NucleiResult, path: str | os.PathLike) -> None:
    """Writes the table, one row per nucleus, as CSV with one header line; an unknown value is an empty field.

    CSV has no room for the provenance record: keep the file beside one of the others.

    Args:
        result: the nuclei of one image.
        path: the file to write; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as working:
        result.table.to_csv(working, index=False, float_format="%.6g", lineterminator="\n")
