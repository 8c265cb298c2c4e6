"""Reading the files of datasets."""

import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.tiny_r1v.data.errors import DataError, first_line
from lipo_verl.errors import did_you_mean


def open_parquet(path: Path, columns: Sequence[str]) -> pq.ParquetFile:
    """The file, if it has the columns.

    Raises DataError, which names the file and the column.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _not_whole(path, "Parquet file", error) from error
    there = file.schema_arrow.names
    for column in columns:
        if column not in there:
            raise DataError(
                f"{path} has no column {column}.{did_you_mean(column, there)} It has: "
                f"{', '.join(there)}. The dataset has changed, or the file is of another one."
            )
    return file


def rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, with these columns only. Raises DataError as open_parquet."""
    for batch in open_parquet(path, columns).iter_batches(1000, columns=list(columns)):
        yield from batch.to_pylist()


def cells(path: Path, column: str, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """The cells of a column in the rows ``wanted``, one row group in memory at a time."""
    file, start, left = open_parquet(path, [column]), 0, sorted(set(wanted))
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = [row for row in left if start <= row < end]
        if inside:
            values = file.read_row_group(group, [column]).column(0)
            yield from ((row, values[row - start].as_py()) for row in inside)
        start = end


@contextmanager
def open_archive(path: Path) -> Iterator[Any]:
    """A zip as ``zipfile.ZipFile``, anything else as ``tarfile.TarFile``.

    Raises DataError where it is not whole, also where that shows later.
    """
    kind = "zip" if path.suffix.lower() == ".zip" else "tar"
    try:
        with zipfile.ZipFile(path) if kind == "zip" else tarfile.open(path) as archive:
            yield archive
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise _not_whole(path, kind, error) from error


def tar_members(path: Path, archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Its members. Raises DataError where it ends within one, which tarfile passes over."""
    members = archive.getmembers()
    archive.fileobj.seek(archive.offset)
    if any(rest := archive.fileobj.read(tarfile.BLOCKSIZE)) or len(rest) % tarfile.BLOCKSIZE:
        raise _not_whole(path, "tar", tarfile.ReadError("unexpected end"))
    return members


def picture_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold pictures: bytes, a struct with bytes, or a list of such structs."""
    return [field.name for field in schema if _holds_bytes(field.type)]


def picture_bytes(value: Any) -> list[bytes]:
    """The encoded pictures in a cell of such a column."""
    if value is None:
        return []
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, dict):
        return picture_bytes(value.get("bytes"))
    return [data for item in value for data in picture_bytes(item)]


def _holds_bytes(type: pa.DataType) -> bool:
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return _holds_bytes(type.value_type)
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0
    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def _not_whole(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path} is no whole {kind} ({first_line(error)}); delete it and run again.")


def read_json(path: Path) -> Any:
    """The contents of a JSON file, or of a file with one JSON object a line.

    Raises DataError for anything else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}. Delete it and run again.") from error
