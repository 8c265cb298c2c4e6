"""What the examples' runs have in common: command line, settings, vLLM in its own process."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from amm import InputError
from examples import run_folder
from examples.quickstart.tasks import TASKS
from examples.run_folder import FolderInUse, SettingsDiffer, sole_launch

ROOT = Path(__file__).parents[2]


class EvaluationFailed(RuntimeError):
    """vLLM ended with an error; the message names its log."""


def command(
    module: str,
    description: str,
    run: Callable[[Path, Any], object],
    settings: Any,
    output: Path,
    *errors: type[Exception],
) -> None:
    """Runs what the command line asks for, in an output folder that nobody else works in.

    run:      takes the output folder and the settings
    settings: the defaults, a dataclass of whole numbers
    output:   the default
    errors:   of ``run``, beside those of this module and amm's, that their message explains
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=output, help=f"default {output}")
    for name, default in asdict(settings).items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=default, help=f"default {default}")
    given = vars(parser.parse_args())
    folder = given.pop("output").resolve()
    try:
        with sole_launch(folder):
            run(folder, replace(settings, **given))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command resumes.")
    except (FolderInUse, SettingsDiffer, EvaluationFailed, InputError, *errors) as error:
        sys.exit(f"\n{error}")


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
