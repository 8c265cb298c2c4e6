"""Merges a quick-answering and a long-reasoning model, and measures length against accuracy.

    python -m examples.tiny_r1v.long_to_short --output runs/long-to-short

On a CPU, at quickstart size. What is there from an interrupted run is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging

import amm
from examples.quickstart import base_model
from examples.quickstart.data import write_splits
from examples.quickstart.tasks import TASKS
from examples.tiny_r1v.long_to_short import report, sources
from examples.tiny_r1v.long_to_short.merges import SWEEP
from lipo_verl.evaluate.results import write_whole

ROOT = Path(__file__).parents[3]
BUDGET = base_model.MAX_RESPONSE + 32
"""Tokens of the longest answer: a merge may be wordier than what it is made of."""


@dataclass(frozen=True)
class Settings:
    """What decides the figures of a run; a folder holds one set of them."""

    steps: int = 200
    """Steps of each supervised fine-tuning."""
    samples: int = 200
    """Questions per task and model."""
    seed: int = 0


class RunFailed(RuntimeError):
    """The output folder holds another run, or the evaluation ended with an error."""


def long_to_short(output: Path, settings: Settings) -> str:
    """Makes what ``output`` does not hold yet, and returns the table.

    Raises RunFailed, amm.InputError.
    """
    _keep_settings(output, settings)
    data, models = output / "data", output / "models"
    models.mkdir(exist_ok=True)
    if not (data / TASKS[-1] / "train.parquet").exists():
        # Fine-tuning draws pictures of its own; only the questions of the evaluation are read.
        write_splits(data, train=1, val=settings.samples, seed=settings.seed)

    folders = {"base": base_model.FOLDER}
    for name, sentences in sources.SENTENCES.items():
        folders[name] = models / name
        if not folders[name].exists():
            _fine_tune(name, sentences, folders[name], settings)
    for merge in SWEEP:
        folders[merge.name] = models / merge.name
        if not folders[merge.name].exists():
            arguments = merge.arguments()
            arguments["base"] = folders[arguments["base"]]
            arguments["experts"] = [folders[name] for name in arguments["experts"]]
            amm.merge(**arguments, output=folders[merge.name])

    _evaluate(folders, data, output, settings)
    return report.write(output, list(folders))


def _keep_settings(output: Path, settings: Settings) -> None:
    path = output / "settings.json"
    if path.exists() and json.loads(path.read_text()) != asdict(settings):
        raise RunFailed(
            f"{output} holds a run with other settings ({path.read_text().strip()}). "
            "Remove that folder, or choose another one with --output."
        )
    write_whole(path, json.dumps(asdict(settings)) + "\n")


def _fine_tune(name: str, sentences: int, folder: Path, settings: Settings) -> None:
    training = sources.recipe(sentences, settings.steps, settings.seed)
    columns = (
        TextColumn("{task.description}  loss {task.fields[loss]:.3f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    logging.disable_progress_bar()  # transformers' own, for each file that it reads
    print(f"Fine-tuning {name}: {sentences} sentences before the answer", flush=True)
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task(name, total=settings.steps, loss=math.nan)
        for loss in sources.fine_tune(base_model.FOLDER, folder, training):
            progress.update(bar, advance=1, loss=loss)


def _evaluate(folders: dict[str, Path], data: Path, output: Path, settings: Settings) -> None:
    """A process of its own: vLLM keeps hold of its memory, and of its log."""
    log = output / "evaluation.log"
    command = [sys.executable, "-m", "lipo_verl.evaluate"]
    command += [f"{name}={folder}" for name, folder in folders.items()]
    command += ["--data", *(f"{task}={data / task / 'val.parquet'}" for task in TASKS)]
    command += ["--output", output / "evaluation", "--seed", settings.seed]
    command += ["--temperature", 1, "--max-tokens", BUDGET, "--vllm", f"max_model_len={2 * BUDGET}"]
    with log.open("a") as errors:
        process = subprocess.run(
            [str(part) for part in command],
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
        )
    if process.returncode != 0:
        raise RunFailed(f"the evaluation ended with {process.returncode}; its log: {log}")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.tiny_r1v.long_to_short",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("runs/long-to-short"))
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    arguments = vars(parser.parse_args())
    output = arguments.pop("output").resolve()
    try:
        table = long_to_short(output, Settings(**arguments))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command goes on from here.")
    except (RunFailed, amm.InputError) as error:
        sys.exit(f"\n{error}")
    print(f"\n{table}\n{output}/table.md and {output}/plot.png")


if __name__ == "__main__":
    main()
