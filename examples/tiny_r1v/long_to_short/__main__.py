"""Merges a quick-answering and a long-reasoning model, and measures length against accuracy.

    python -m examples.tiny_r1v.long_to_short --output runs/long-to-short

On a CPU, at quickstart size. What is there from an interrupted run is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging

import amm
from examples.quickstart import base_model
from examples.quickstart.data import write_splits
from examples.quickstart.stages import command, evaluate, keep_settings
from examples.quickstart.tasks import TASKS
from examples.tiny_r1v.long_to_short import report, sources
from examples.tiny_r1v.long_to_short.calibration import calibrate
from examples.tiny_r1v.long_to_short.merges import SWEEP

BUDGET = base_model.MAX_RESPONSE + 32
"""Tokens of the longest answer: a merge may be wordier than what it is made of."""


@dataclass(frozen=True)
class Settings:
    """What decides the figures of a run; a folder holds one set of them."""

    steps: int = 200
    """Steps of each supervised fine-tuning."""
    samples: int = 200
    """Questions per task and model."""
    questions: int = 150
    """Training questions per task to calibrate on."""
    seed: int = 0


def long_to_short(output: Path, settings: Settings) -> str:
    """Makes what ``output`` does not hold yet, and returns the table.

    Raises SettingsDiffer, EvaluationFailed, amm.InputError.
    """
    keep_settings(output, settings)
    data, models = output / "data", output / "models"
    models.mkdir(exist_ok=True)
    if not (data / TASKS[-1] / "train.parquet").exists():
        # Fine-tuning draws pictures of its own.
        write_splits(data, train=settings.questions, val=settings.samples, seed=settings.seed)

    folders = {"base": base_model.FOLDER}
    for name, style in sources.STYLE.items():
        folders[name] = models / name
        if not folders[name].exists():
            _fine_tune(name, style, folders[name], settings)
    tables = calibrate(output / "calibration", data, folders, BUDGET, settings.seed)
    for merge in SWEEP:
        folders[merge.name] = models / merge.name
        if not folders[merge.name].exists():
            table = {} if merge.table is None else {merge.table: tables[merge.table]}
            amm.merge(
                folders[merge.base],
                [folders[name] for name in merge.experts],
                method=merge.method,
                parameters={**merge.parameters, **table},
                output=folders[merge.name],
            )

    named = [f"{name}={folder}" for name, folder in folders.items()]
    evaluate(named, data, output, BUDGET, "--seed", settings.seed)
    return report.write(output, list(folders))


def _fine_tune(name: str, style: str, folder: Path, settings: Settings) -> None:
    training = sources.recipe(style, settings.steps, settings.seed)
    columns = (
        TextColumn("{task.description}  loss {task.fields[loss]:.3f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    logging.disable_progress_bar()  # transformers' own, for each file that it reads
    print(f"Fine-tuning {name}: answers in the style {style}", flush=True)
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task(name, total=settings.steps, loss=math.nan)
        for loss in sources.fine_tune(base_model.FOLDER, folder, training):
            progress.update(bar, advance=1, loss=loss)


def _show(output: Path, settings: Settings) -> None:
    print(f"\n{long_to_short(output, settings)}\n{output}/table.md and {output}/plot.png")


def main() -> None:
    output = Path("runs/long-to-short")
    command("examples.tiny_r1v.long_to_short", __doc__, _show, Settings(), output)


if __name__ == "__main__":
    main()
