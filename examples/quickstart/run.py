"""The whole method on one machine without a GPU: `make demo`, or

    python -m examples.quickstart.run --output runs/quickstart

draws the data, trains a GRPO baseline and three LIPO experts with verl, merges the experts with
AMM and its peers, evaluates every model with vLLM and writes the report. What is already there from
an interrupted run is kept.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import amm
from examples.quickstart import report
from examples.quickstart.data import write_splits
from examples.quickstart.stages import command, evaluate, keep_settings
from examples.quickstart.tasks import TASKS
from examples.quickstart.train import GRPO, LIPO, Run, TrainingFailed, train

HERE = Path(__file__).parent
BASE = HERE / "base_model"

BASELINE_TASK = "math"
BUDGET = 64
"""Tokens of the longest answer, in training and in evaluation."""
MERGE_METHODS = ("mean", "task_arithmetic", "wudi", "amm")


@dataclass(frozen=True)
class Settings:
    """What decides the figures of a run; a folder holds one set of them."""

    steps: int = 20
    """Optimiser steps of each training run."""
    train_examples: int = 2000
    samples: int = 1000
    """Validation questions per task and model."""
    seed: int = 0


def quickstart(output: Path, settings: Settings) -> None:
    """Runs every stage that ``output`` does not hold yet, and prints the table.

    Raises SettingsDiffer, TrainingFailed, EvaluationFailed, amm.InputError.
    """
    keep_settings(output, settings)
    started = time.monotonic()

    _say(f"Data: {settings.train_examples} training pictures for each of {', '.join(TASKS)}")
    data = output / "data"
    if not (data / TASKS[-1] / "train.parquet").exists():
        write_splits(data, train=settings.train_examples, val=settings.samples, seed=settings.seed)

    runs = [Run(f"grpo-{BASELINE_TASK}", BASELINE_TASK, settings.steps, GRPO)]
    runs += [Run(f"lipo-{task}", task, settings.steps, LIPO) for task in TASKS]
    _say(f"Training: {len(runs)} runs of {settings.steps} steps with verl, Ray, FSDP2 and vLLM")
    checkpoints = {
        run.name: train(run, base=BASE, data=data, folder=output / "train" / run.name)
        for run in runs
    }

    _say("Merging: the three LIPO experts, straight from their FSDP shards")
    models = output / "models"
    experts = [checkpoints[f"lipo-{task}"] for task in TASKS]
    # vLLM reads Hugging Face folders: the mean of one expert is that expert.
    jobs = {name: ([checkpoint], "mean") for name, checkpoint in checkpoints.items()}
    jobs |= {method: (experts, method) for method in MERGE_METHODS}
    for name, (inputs, method) in jobs.items():
        if not (models / name).exists():
            amm.merge(BASE, inputs, method=method, output=models / name)

    _say(f"Evaluating: every model on {settings.samples} questions per task, with vLLM")
    folders = [BASE, *(models / name for name in jobs)]
    evaluate(folders, data, output, BUDGET, "--limit", settings.samples)

    report.write(output, asdict(settings))
    minutes = (time.monotonic() - started) / 60
    _say(f"Done in {minutes:.0f} minutes. {output}/report.md has the tables and the plots.")
    report.show(output)


def _say(what: str) -> None:
    print(f"\n{what}", flush=True)


def main() -> None:
    output = Path("runs/quickstart")
    command("examples.quickstart.run", __doc__, quickstart, Settings(), output, TrainingFailed)


if __name__ == "__main__":
    main()
