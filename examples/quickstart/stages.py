"""What the examples' runs have in common: a folder's settings, and vLLM in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples import run_folder
from examples.quickstart.tasks import TASKS
from examples.run_folder import SettingsDiffer as SettingsDiffer

ROOT = Path(__file__).parents[2]


class EvaluationFailed(RuntimeError):
    """vLLM ended with an error; the message names its log."""


def keep_settings(output: Path, settings: Any) -> None:
    """Writes the settings, a dataclass, into ``settings.json``.

    Raises SettingsDiffer where that file has others.
    """
    run_folder.keep_settings(output, asdict(settings))


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
