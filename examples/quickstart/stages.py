"""What the examples' runs have in common: a folder's settings, and vLLM in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.quickstart.tasks import TASKS
from lipo_verl.evaluate.results import write_whole

ROOT = Path(__file__).parents[2]


class SettingsDiffer(ValueError):
    """The output folder holds a run with other settings."""


class EvaluationFailed(RuntimeError):
    """vLLM ended with an error; the message names its log."""


def keep_settings(output: Path, settings: Any) -> None:
    """Writes the settings, a dataclass, into ``settings.json``.

    Raises SettingsDiffer where that file has others.
    """
    path = output / "settings.json"
    if path.exists() and json.loads(path.read_text()) != asdict(settings):
        raise SettingsDiffer(
            f"{output} holds a run with other settings ({path.read_text().strip()}). "
            "Remove that folder, or choose another one with --output."
        )
    write_whole(path, json.dumps(asdict(settings)) + "\n")


def evaluate(
    models: Iterable[Path | str], data: Path, output: Path, max_tokens: int, *options: Any
) -> None:
    """Answers every task's validation questions with each model, into ``output/evaluation``.

    In a process of its own: vLLM keeps hold of its memory, and of its log.

    Raises EvaluationFailed.
    """
    log = output / "evaluation.log"
    command = [sys.executable, "-m", "lipo_verl.evaluate", *models, "--data"]
    command += [f"{task}={data / task / 'val.parquet'}" for task in TASKS]
    command += ["--output", output / "evaluation", "--temperature", 1, "--max-tokens", max_tokens]
    command += ["--vllm", f"max_model_len={2 * max_tokens}", *options]
    with log.open("a") as errors:
        process = subprocess.run(
            [str(part) for part in command],
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
        )
    if process.returncode != 0:
        raise EvaluationFailed(f"the evaluation ended with {process.returncode}; its log: {log}")
