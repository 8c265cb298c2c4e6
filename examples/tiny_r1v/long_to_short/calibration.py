"""What AIM and RPAM learn from training questions: the two models' answers, then their tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import amm
from examples.quickstart.stages import evaluate
from examples.quickstart.tasks import TASKS
from examples.whole import whole
from lipo_verl.evaluate.results import Pair, write_whole

ANSWERS = 4
"""Answers of each model to each question."""

MODELS = ("quick", "long")


def calibrate(
    folder: Path, data: Path, folders: Mapping[str, Path], budget: int, seed: int
) -> dict[str, Path]:
    """Make the tables that ``folder`` does not hold yet; the setting that names each → its file.

    Raises EvaluationFailed, amm.InputError.
    """
    names = ("activations", "coefficients")
    tables = {name: folder / f"{name}.safetensors" for name in names}
    if all(table.exists() for table in tables.values()):
        return tables
    questions = folder / "questions.parquet"
    sizes = _ask(folder, data, questions)
    models = [f"{name}={folders[name]}" for name in MODELS]
    evaluate(models, folder / "asked", folder, budget, "--seed", seed)
    answers = {name: _answers(folder, name, sizes) for name in MODELS}
    if not tables["activations"].exists():
        print("Measuring the quick model's activations", flush=True)
        amm.calibrate_activations(
            folders["quick"], questions, output=tables["activations"], answers=[answers["quick"]]
        )
    if not tables["coefficients"].exists():
        print("Aligning layers with the long and the quick model", flush=True)
        amm.calibrate_rpam(
            folders["long"],
            folders["quick"],
            questions,
            long_answers=[answers["long"]],
            short_answers=[answers["quick"]],
            held_out=[data / task / "val.parquet" for task in TASKS],
            output=tables["coefficients"],
            progress=lambda name, done: print(f"  {name}", flush=True),
        )
    return tables


def _ask(folder: Path, data: Path, questions: Path) -> dict[str, int]:
    """Put all tasks' training questions into one file, and each several times into files to be
    answered; how many each task has."""
    tables = {task: pq.read_table(data / task / "train.parquet") for task in TASKS}
    for task, table in tables.items():
        repeated = table.take([row for row in range(len(table)) for _ in range(ANSWERS)])
        with whole(folder / "asked" / task / "val.parquet") as unfinished:
            pq.write_table(repeated, unfinished)
    with whole(questions) as unfinished:
        pq.write_table(pa.concat_tables(tables.values()), unfinished)
    return {task: len(table) for task, table in tables.items()}


def _answers(folder: Path, model: str, sizes: Mapping[str, int]) -> Path:
    """One model's answers to all tasks, numbered as the questions of the one file."""
    lines, before = [], 0
    for task, size in sizes.items():
        for row in Pair(folder / "evaluation", model, task).rows():
            lines.append(json.dumps({**row, "row": before + row["row"] // ANSWERS}))
        before += size
    file = folder / f"{model}.jsonl"
    write_whole(file, "\n".join(lines) + "\n")
    return file
