"""The best checkpoint of a run by validation accuracy.

    python -m examples.tiny_r1v.pick runs/3b/verl/lipo-math

Prints the checkpoint's path on standard output, and why on standard error; RUN/best is a link to
it, so that merge.yaml need not change. Reads the logs of verl's file logger and of EasyR1's.
Checkpoints of equal accuracy: the one with the shorter answers, then the later one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amm import InputError
from examples.tiny_r1v.launch.resume import TRACKER, named_step, step_folders
from examples.whole import whole

LINK = "best"
_VERL_SCORE = re.compile(r"val-core/(?P<source>.+)/(?:acc|reward)/mean@\d+")


@dataclass(frozen=True)
class Validation:
    """What a log says of a step.

    Attributes:
        accuracy: mean over the data sources of the validation set.
        tokens: mean length of the answers: in EasyR1 of validation, in verl, which doesn't log
            that, of the step's training batch; None where there is none.
    """

    accuracy: float
    tokens: float | None


@dataclass(frozen=True)
class Choice:
    """A checkpoint, and why it was taken."""

    checkpoint: Path
    reason: str


def pick(run: Path, tolerance: float = 0.0) -> Choice:
    """The best checkpoint of a run.

    run:       folder of ``global_step_N``, or of ``checkpoints/global_step_N``, and of the logs:
               ``metrics-from-N.jsonl`` of either framework, or EasyR1's ``experiment_log.jsonl``
    tolerance: accuracies within so much of the best count as equal

    Raises amm.InputError where there is no whole checkpoint.
    """
    found = checkpoints(run)
    if not found:
        raise InputError(
            f"{run} has no whole checkpoint (global_step_N/actor with model_world_size_*.pt, there "
            "or in checkpoints/). Is the run finished, and is this its folder?"
        )
    seen = validations(run)
    both = {step: seen[step] for step in found if step in seen}
    if not both:
        last = max(found)
        why = "its logs have no validation" if not seen else "no checkpoint was validated"
        return Choice(found[last], f"{why}: the last checkpoint, step {last}")
    best = max(each.accuracy for each in both.values())
    equal = [step for step, each in both.items() if each.accuracy >= best - tolerance]
    step = min(equal, key=lambda step: (_length(both[step]), -step))
    lost = [other for other in seen if other and other not in found]
    return Choice(found[step], _reason(step, both, equal, {n: seen[n] for n in lost}))


def checkpoints(run: Path) -> dict[int, Path]:
    """Whole checkpoints by step: those up to the one that the framework's tracker names; all where
    there is none."""
    found: dict[int, Path] = {}
    for parent in (run, run / "checkpoints"):
        named = (named_step(framework, parent) for framework in TRACKER)
        last = next((step for step in named if step is not None), math.inf)
        found |= {
            step: folder
            for step, folder in step_folders(parent).items()
            if step <= last and any(folder.glob("actor/model_world_size_*_rank_*.pt"))
        }
    return dict(sorted(found.items()))


def validations(run: Path) -> dict[int, Validation]:
    """What the logs say of each step that was validated; of a step logged twice, the later log."""
    seen = {}
    for log in logs(run):
        for row in rows(log):
            validation = _of_verl(row["data"]) if "data" in row else _of_easyr1(row)
            if validation is not None:
                seen[row["step"]] = validation
    return dict(sorted(seen.items()))


def link(run: Path, choice: Choice) -> Path:
    """Makes ``RUN/best`` a link to the choice."""
    target = run / LINK
    if target.exists() and not target.is_symlink():
        raise InputError(f"{target} is no link; rename it.")
    with whole(target) as unfinished:
        unfinished.symlink_to(os.path.relpath(choice.checkpoint, run), target_is_directory=True)
    return target


def logs(run: Path) -> list[Path]:
    """What verl's file logger, or EasyR1's, left of each start of a run, the last start last."""
    found = [*run.glob("metrics-from-*.jsonl")]
    found += [
        log
        for parent in (run, run / "checkpoints")
        for log in parent.glob("experiment_log.jsonl")
        if not log.is_symlink()
    ]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def rows(log: Path) -> Iterator[dict[str, Any]]:
    """The lines of a framework's log, there or not, up to one that an interruption cut."""
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _of_verl(data: Mapping[str, float]) -> Validation | None:
    scores = {
        found["source"]: value for key, value in data.items() if (found := _VERL_SCORE.match(key))
    }
    if not scores:
        return None
    return Validation(sum(scores.values()) / len(scores), data.get("response_length/mean"))


def _of_easyr1(row: Mapping[str, Any]) -> Validation | None:
    scores = row.get("val", {})
    accuracy = scores.get("accuracy_reward", scores.get("reward_score"))
    if accuracy is None:
        return None
    return Validation(accuracy, row.get("val_response_length", {}).get("mean"))


def _length(validation: Validation) -> float:
    return math.inf if validation.tokens is None else validation.tokens


def _reason(
    step: int, both: Mapping[int, Validation], equal: list[int], lost: Mapping[int, Validation]
) -> str:
    lines = [f"{'step':>6}  accuracy  tokens"]
    for each, validation in both.items():
        tokens = "-" if validation.tokens is None else f"{validation.tokens:.1f}"
        mark = "  <" if each == step else ""
        lines.append(f"{each:>6}  {validation.accuracy:8.4f}  {tokens:>6}{mark}")
    if len(equal) == 1:
        lines.append(f"Step {step} has the best accuracy.")
    else:
        others = ", ".join(str(each) for each in equal if each != step)
        shorter = any(_length(both[step]) < _length(both[each]) for each in equal if each != step)
        why = "its answers are the shortest" if shorter else "it is the later one"
        lines.append(f"Step {step} is as good as {others}; {why}.")
    better = [n for n, each in lost.items() if each.accuracy > both[step].accuracy]
    if better:
        steps = ", ".join(map(str, better))
        lines.append(f"Better, but without a checkpoint: step {steps}. Save more often, keep all.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the output folder of a training run")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="accuracies within so much of the best count as equal; default 0",
    )
    arguments = parser.parse_args()
    try:
        choice = pick(arguments.run, arguments.tolerance)
        link(arguments.run, choice)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(choice.reason, file=sys.stderr)
    print(choice.checkpoint)


if __name__ == "__main__":
    main()
