"""Write the quickstart's pictures and questions as Parquet files that verl reads.

    python -m examples.quickstart.data data/     # math, structure, ocr: train and val of each

One row has the columns verl's ``RLHFDataset`` and reward manager look for: ``prompt`` (chat
messages, ``<image>`` where the picture stands), ``images``, ``data_source``, ``reward_model`` and
``extra_info``, where ``reward_task`` says how answers are scored. The same seed writes the same
rows.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.quickstart.tasks import REWARDS, TASKS, make_example
from examples.whole import whole


def write_splits(
    folder: Path | str, train: int = 2000, val: int = 200, seed: int = 0
) -> dict[str, dict[str, Path]]:
    """Write ``<task>/train.parquet`` and ``<task>/val.parquet`` for every task.

    No picture occurs twice, neither within a split nor in both.

    Returns:
        The files by task and split.
    """
    for name, count in (("train", train), ("val", val)):
        if count < 1:
            raise ValueError(f"{name} is {count}: give at least one example.")
    written: dict[str, dict[str, Path]] = {}
    for task in TASKS:
        rows = _distinct_rows(task, train + val, seed)
        splits = {"val": rows[:val], "train": rows[val:]}
        written[task] = {
            split: _write(_numbered(rows, split), Path(folder, task, f"{split}.parquet"))
            for split, rows in splits.items()
        }
    return written


def _distinct_rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    rng = Random(f"{task} {seed}")
    rows: dict[bytes, dict[str, Any]] = {}
    while len(rows) < count:
        example = make_example(task, rng)
        buffer = BytesIO()
        example.image.save(buffer, format="PNG")
        picture = buffer.getvalue()
        rows[picture] = {
            "data_source": f"quickstart/{task}",
            "prompt": [{"role": "user", "content": f"<image>{example.question}"}],
            "images": [{"bytes": picture}],
            "ability": task,
            "reward_model": {"style": "rule", "ground_truth": example.answer},
            "extra_info": {
                "task": task,
                "question": example.question,
                "answer": example.answer,
                "steps": example.steps,
                "reward_task": REWARDS[task],
            },
        }
    return list(rows.values())


def _numbered(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [
        {**row, "extra_info": {"index": index, "split": split, **row["extra_info"]}}
        for index, row in enumerate(rows)
    ]


def _write(rows: list[dict[str, Any]], path: Path) -> Path:
    with whole(path) as unfinished:
        pq.write_table(pa.Table.from_pylist(rows), unfinished)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--train", type=int, default=2000, help="training examples per task")
    parser.add_argument("--val", type=int, default=200, help="validation examples per task")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    written = write_splits(**vars(arguments))
    for splits in written.values():
        for path in splits.values():
            print(path)


if __name__ == "__main__":
    main()
