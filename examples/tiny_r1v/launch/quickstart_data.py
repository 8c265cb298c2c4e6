"""The quickstart's data in the recipe's layout: its three tasks, and their mixture.

python -m examples.tiny_r1v.launch.quickstart_data DATA
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from examples.quickstart.data import write_splits
from examples.whole import whole


def write(folder: Path, train: int, val: int) -> None:
    """Writes ``<task>/train.parquet`` and ``val.parquet``, and the same of ``mixture``, which holds
    the rows of all tasks.

    train, val: rows per task
    """
    written = write_splits(folder, train=train, val=val)
    for split in ("train", "val"):
        tables = [pq.read_table(files[split]) for files in written.values()]
        with whole(folder / "mixture" / f"{split}.parquet") as unfinished:
            pq.write_table(pa.concat_tables(tables), unfinished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000, help="training rows per task")
    parser.add_argument("--val", type=int, default=200, help="validation rows per task")
    write(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
