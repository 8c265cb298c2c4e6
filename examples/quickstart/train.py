"""One training run of the quickstart: verl's own PPO trainer on the CPU platform."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from examples.tiny_r1v.launch.resume import last_step
from examples.tiny_r1v.pick import logs, rows
from lipo_verl.cpu.launch import run_main_ppo

HERE = Path(__file__).parent

GRPO = ("algorithm.adv_estimator=grpo",)
LIPO = (
    "algorithm.adv_estimator=lipo",
    "+algorithm.lipo.length_threshold=${data.max_response_length}",
    "+algorithm.lipo.std_floor=0.1",
)
"""LIPO's settings in the quickstart: L_max is the budget, and the floor keeps the pull of length in
proportion to that of the rewards (docs/lipo.md)."""


class TrainingFailed(RuntimeError):
    """verl's trainer ended with an error; the message carries the end of its log."""


@dataclass(frozen=True)
class Run:
    """What one training run is."""

    name: str
    task: str
    """The folder of its data."""
    steps: int
    settings: tuple[str, ...]
    """verl's, with the estimator among them."""


def train(run: Run, *, base: Path, data: Path, folder: Path) -> Path:
    """Trains, or resumes from the last checkpoint in ``folder``.

    base:    the model to start from
    data:    folder with ``<task>/train.parquet`` and ``<task>/val.parquet``
    folder:  gets ``checkpoints/``, ``tensorboard/``, ``verl.log`` and ``metrics-from-<step>.jsonl``
    returns: the final checkpoint, ``checkpoints/global_step_<steps>``

    Raises TrainingFailed.
    """
    checkpoints = folder / "checkpoints"
    done = last_step("verl", checkpoints)
    final = checkpoints / f"global_step_{run.steps}"
    if done == run.steps:
        return final
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / f"metrics-from-{done}.jsonl"
    overrides = [
        f"--config-dir={HERE / 'config'}",
        "+quickstart=train",
        f"actor_rollout_ref.model.path={_quoted(base)}",
        f"data.train_files={_quoted(data / run.task / 'train.parquet')}",
        f"data.val_files={_quoted(data / run.task / 'val.parquet')}",
        f"trainer.experiment_name={run.name}",
        f"trainer.default_local_dir={_quoted(checkpoints)}",
        f"trainer.total_training_steps={run.steps}",
        "trainer.save_freq=10",
        f"hydra.run.dir={_quoted(folder / 'hydra')}",
        *run.settings,
    ]
    log = folder / "verl.log"
    with log.open("ab") as output, _progress(run, done, metrics):
        code = run_main_ppo(
            overrides,
            environment={
                "VERL_FILE_LOGGER_PATH": str(metrics.resolve()),
                "TENSORBOARD_DIR": str((folder / "tensorboard").resolve()),
            },
            output=output,
        )
    if code != 0 or last_step("verl", checkpoints) != run.steps:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise TrainingFailed(f"{end}\n\n{run.name} ended with exit code {code}; all of it: {log}")
    return final


def curve(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a run in order, ``{"step": …, metric: …}``; after a resumption the later
    log of a step counts."""
    steps = {row["step"]: row for log in logs(folder) for row in rows(log)}
    return [{"step": step, **steps[step]["data"]} for step in sorted(steps)]


def _quoted(path: Path) -> str:
    """As a value of Hydra's, whatever characters it has."""
    return QuotedString(str(path.resolve()), Quote.single).with_quotes()


@contextmanager
def _progress(run: Run, done: int, metrics: Path) -> Iterator[None]:
    """Shows step, mean length and reward, as verl logs them, while the run lasts."""
    columns = (
        TextColumn(f"{run.name:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    ended = threading.Event()
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=run.steps, completed=done, note="starting verl")

        def follow() -> None:
            shown = done
            while not ended.wait(1):
                logged = list(rows(metrics))
                if not logged or logged[-1]["step"] == shown:
                    continue
                shown, data = logged[-1]["step"], logged[-1]["data"]
                note = (
                    f"{data['response_length/mean']:5.1f} tokens  "
                    f"reward {data['critic/score/mean']:.2f}"
                )
                progress.update(bar, completed=shown, note=note)
                if not progress.console.is_terminal and shown % 5 == 0:
                    print(f"{run.name:<16} step {shown}/{run.steps}  {note}", flush=True)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
