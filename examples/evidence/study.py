"""Trains and evaluates the study's grid: `make evidence`, or

    python -m examples.evidence.study --size full

One phase after the other: every arm at each strength on a tuning seed (`tune`); the strength chosen
for each, on other seeds and other questions (`report`); the same at twice the learning rate
(`stress`); two more seeds of both for the finalists (`final`, `stress`). The question, the measures
and the rules, written before the runs, are docs/evidence.md.

Each trial trains with verl, its shards become a model by amm, vLLM answers the questions, and one
small file in the results' folder is left. A trial whose file is there is not run again, so the same
command resumes; a second one beside it takes trials that the first does not work on.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq

import amm
from examples.evidence import command
from examples.evidence.arms import ARMS, BUDGET, BY_NAME
from examples.evidence.choice import chosen_strengths, finalists
from examples.evidence.results import Result, Trial, answers
from examples.quickstart.data import write_splits
from examples.quickstart.run import BASE
from examples.quickstart.stages import EvaluationFailed, evaluate, keep_settings
from examples.quickstart.tasks import TASKS
from examples.quickstart.train import Run, TrainingFailed, curve, train
from examples.run_folder import FolderInUse, SettingsDiffer, sole_launch
from examples.whole import whole
from lipo_verl.errors import did_you_mean

CURVE = {
    "tokens": "response_length/mean",
    "reward": "critic/score/mean",
    "truncated": "response_length/clip_ratio",
    "entropy": "actor/entropy",
    "probabilities": "training/rollout_probs_diff_max",
    "seconds": "perf/time_per_step",
}
"""What is kept of each training step, by verl's name."""

QUESTIONS = {"tune": 20_001, "report": 20_002, "stress": 20_002, "final": 20_002}
"""The seed of the questions that the models of a phase answer."""

SHARED = ("trainer.logger=[file]",)
"""verl's settings of all arms, beside the quickstart's: 16 prompts a step, 6 responses each, one
update, learning rate 5e-4, the budget of 64 tokens."""

STRESS = ("actor_rollout_ref.actor.optim.lr=1e-3",)
"""verl's settings of the phase `stress`, beside them."""

PICTURES = 800
"""Of each task in a training's data."""


@dataclass(frozen=True)
class Size:
    """How large a study is."""

    steps: int
    questions: int
    """For each task."""
    arms: tuple[str, ...]
    tuned: bool
    """Whether strengths are tuned; the weaker one otherwise."""
    seeds: tuple[int, ...]
    more_seeds: tuple[int, ...]
    """Of the finalists."""


SIZES = {
    "small": Size(20, 100, ("grpo", "lipo", "lipo-batch"), False, (1,), ()),
    "full": Size(20, 500, tuple(arm.name for arm in ARMS), True, (1, 2, 3), (4, 5)),
}


def phases(size: Size, results: Path) -> Iterator[list[Trial]]:
    """The trials of each phase; what a phase has found decides the next one's."""
    strengths = {name: BY_NAME[name].strengths[0] for name in size.arms}
    if size.tuned:
        tuning = [
            Trial("tune", arm, strength, 0)
            for arm in size.arms
            for strength in BY_NAME[arm].strengths
        ]
        yield tuning
        strengths = chosen_strengths([trial.read(results) for trial in tuning])
    reported = [
        Trial("report", arm, strengths[arm], seed) for seed in size.seeds for arm in size.arms
    ]
    yield reported
    if size.more_seeds:
        stressed = [replace(trial, phase="stress") for trial in reported]
        yield stressed
        best = finalists(*([each.read(results) for each in done] for done in (reported, stressed)))
        yield [
            Trial(phase, arm, strengths[arm], seed)
            for seed in size.more_seeds
            for arm in best
            for phase in ("final", "stress")
        ]


def study(size: Size, output: Path, results: Path) -> None:
    """Runs every trial that has no result yet and that nobody else works on.

    Raises SettingsDiffer, TrainingFailed, EvaluationFailed, amm.InputError.
    """
    keep_settings(output, size)
    draw(size, output / "data")
    for trials in phases(size, results):
        minutes: list[float] = []
        while left := [trial for trial in trials if not trial.file(results).exists()]:
            for trial in left:
                started = time.monotonic()
                if not _alone(trial, size, output, results):
                    continue
                minutes.append((time.monotonic() - started) / 60)
                to_do = sum(not each.file(results).exists() for each in trials)
                print(
                    f"{trial.phase}: {len(trials) - to_do} of {len(trials)} trials done, "
                    f"{fmean(minutes):.1f} minutes each here, {to_do} left",
                    flush=True,
                )
            time.sleep(5)


def again(name: str, size: Size, output: Path, results: Path) -> None:
    """Runs one trial of any phase and strength, whether or not it has a result."""
    seeds = {
        "tune": (0,),
        "report": size.seeds,
        "stress": size.seeds + size.more_seeds,
        "final": size.more_seeds,
    }
    trials = {
        trial.name: trial
        for phase in seeds
        for arm in size.arms
        for strength in BY_NAME[arm].strengths
        for trial in [Trial(phase, arm, strength, seed) for seed in seeds[phase]]
    }
    if name not in trials:
        sys.exit(f"{name}: no such trial.{did_you_mean(name, trials)}")
    draw(size, output / "data")
    with sole_launch(output / "trials" / name):
        run_trial(trials[name], size, output, results)


def _alone(trial: Trial, size: Size, output: Path, results: Path) -> bool:
    """Runs a trial unless it is done or another process works on it; whether it ran."""
    try:
        with sole_launch(output / "trials" / trial.name):
            if trial.file(results).exists():
                return False
            run_trial(trial, size, output, results)
    except FolderInUse:
        return False
    return True


def run_trial(trial: Trial, size: Size, output: Path, results: Path) -> None:
    """Trains, answers the phase's questions, writes the result, and removes the rest."""
    folder = output / "trials" / trial.name
    settings = (
        *SHARED,
        f"data.seed={trial.seed}",
        f"trainer.save_freq={size.steps}",
        *(STRESS if trial.phase == "stress" else ()),
        *BY_NAME[trial.arm].overrides(trial.strength),
    )
    run = Run(trial.name, "mixture", size.steps, settings)
    data = output / "data" / f"train-{trial.seed}"
    expert = train(run, base=BASE, data=data, folder=folder)
    model = folder / "model"
    if not model.exists():
        amm.merge(BASE, [expert], method="mean", output=model)
    questions = output / "data" / f"questions-{QUESTIONS[trial.phase]}"
    evaluate([model], questions, folder, BUDGET, "--limit", size.questions)
    logged = curve(folder)
    Result(
        trial,
        {**asdict(size), "settings": list(settings)},
        {name: [round(row[key], 4) for row in logged] for name, key in CURVE.items()},
        *answers(folder / "evaluation" / model.name, questions),
    ).write(results)
    for large in ("checkpoints", "evaluation", "model", "hydra"):
        shutil.rmtree(folder / large)


def draw(size: Size, folder: Path) -> None:
    """Draws the pictures of all seeds and phases, unless they are there."""
    while True:
        try:
            with sole_launch(folder):
                for seed in (0, *size.seeds, *size.more_seeds):
                    _draw_training(folder / f"train-{seed}", seed)
                for seed in sorted(set(QUESTIONS.values())):
                    if not (folder / f"questions-{seed}" / TASKS[-1] / "val.parquet").exists():
                        write_splits(
                            folder / f"questions-{seed}", train=1, val=size.questions, seed=seed
                        )
            return
        except FolderInUse:
            time.sleep(1)


def _draw_training(folder: Path, seed: int) -> None:
    """The pictures of all tasks in one file, under the names that `train` reads."""
    if (folder / "mixture" / "val.parquet").exists():
        return
    written = write_splits(folder, train=PICTURES, val=1, seed=seed)
    for split in ("train", "val"):
        rows = pa.concat_tables([pq.read_table(written[task][split]) for task in TASKS])
        with whole(folder / "mixture" / f"{split}.parquet") as unfinished:
            pq.write_table(rows, unfinished)


def main() -> None:
    parser = command.parser("examples.evidence.study", __doc__, SIZES, "SIZE")
    parser.add_argument("--only", metavar="TRIAL", help="run this one alone, again in any case")
    given = parser.parse_args()
    output, results = command.folders(given, "evidence")
    size = SIZES[given.size]
    try:
        if given.only:
            again(given.only, size, output, results)
        else:
            study(size, output, results)
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command resumes.")
    except (FolderInUse, SettingsDiffer, TrainingFailed, EvaluationFailed, amm.InputError) as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
