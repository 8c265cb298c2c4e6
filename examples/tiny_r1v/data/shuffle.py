"""Parquet files of SCHEMA, written row by row, in a seeded order, in little memory."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.tiny_r1v.data.fetch import describe
from examples.tiny_r1v.data.ranking import rank
from examples.tiny_r1v.data.schema import SCHEMA
from examples.whole import whole

ROW_GROUP = 100

BUCKETS = 16
"""A file is put in its order in so many pieces, so that one in so many rows is in memory."""


class Writer:
    """A Parquet file of SCHEMA in row groups of ROW_GROUP rows."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA)
        self._waiting: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row at the end."""
        self._waiting.append(row)
        if len(self._waiting) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._waiting, SCHEMA))
        self._waiting = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._flush()
        self._file.close()


def write_shuffled(
    path: Path, rows: Iterable[dict[str, Any]], split: str, seed: int
) -> dict[str, Any]:
    """Writes rows in a seeded order that does not depend on the one they come in.

    Gives each row its split and its index. Returns the number of rows, and size and sha256.
    """
    number = 0
    with (
        whole(path) as unfinished,
        TemporaryDirectory(prefix="unfinished-", dir=path.parent) as scratch,
        Writer(unfinished) as writer,
    ):
        for bucket in _into_buckets(rows, Path(scratch), seed):
            for row in sorted(read_rows([bucket]), key=lambda row: _place(row, seed)):
                row["extra_info"].update(split=split, index=number)
                writer.add(row)
                number += 1
    return {"rows": number, **describe(path)}


def _into_buckets(rows: Iterable[dict[str, Any]], folder: Path, seed: int) -> list[Path]:
    """Files with the rows, by the first bits of their places: no more than one is in memory."""
    paths = [folder / f"{number}.parquet" for number in range(BUCKETS)]
    with ExitStack() as open_files:
        writers = [open_files.enter_context(Writer(path)) for path in paths]
        for row in rows:
            writers[_place(row, seed)[0] * BUCKETS >> 64].add(row)
    return paths


def _place(row: dict[str, Any], seed: int) -> tuple[int, str]:
    info = row["extra_info"]
    return rank(seed, "order", info["source"], info["id"]), info["id"]


def read_rows(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The rows of files of SCHEMA, one after the other."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP):
            yield from batch.to_pylist()
