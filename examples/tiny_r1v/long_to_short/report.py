"""The table and the plot of a long-to-short run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples.quickstart.tasks import TASKS
from examples.tiny_r1v.long_to_short.merges import SCALES
from examples.whole import write_plot
from lipo_verl.evaluate import statistics
from lipo_verl.evaluate.results import Pair, scored, write_whole
from lipo_verl.evaluate.statistics import Estimate, Scored

HEADER = ("model", "accuracy", "tokens", "tokens per correct", "of long's tokens", *TASKS)


def write(output: Path, names: Sequence[str]) -> str:
    """Writes ``table.md`` and ``plot.png`` from the evaluations in ``output``; returns the table.

    names: of the models, `long` among them
    """
    answers = {name: _answers(output / "evaluation", name) for name in names}
    table = markdown(answers)
    write_whole(output / "table.md", table)
    plot(answers, output / "plot.png")
    return table


def markdown(answers: Mapping[str, Mapping[str, Scored]]) -> str:
    """A row for each model: all tasks together, with 95 % intervals, then each task by itself.

    answers: by model and task, `long` among the models
    """
    rows = [HEADER, ("---", *["---:"] * (len(HEADER) - 1))]
    reference = joined(answers["long"])
    for name, tasks in answers.items():
        all_of_them = joined(tasks)
        ratio = statistics.token_ratio(reference, all_of_them)
        rows.append(
            (
                name,
                _cell(statistics.accuracy(all_of_them), ".3f"),
                _cell(statistics.mean_tokens(all_of_them), ".1f"),
                f"{statistics.tokens_per_correct(all_of_them).value:.1f}",
                f"{ratio.value:.0%}",
                *(
                    f"{statistics.accuracy(each).value:.3f} · {each.tokens.mean():.1f}"
                    for each in tasks.values()
                ),
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def joined(tasks: Mapping[str, Scored]) -> Scored:
    """The answers to all tasks' questions, one after another."""
    columns = ("accuracy", "tokens", "truncated")
    return Scored(
        **{
            name: np.concatenate([getattr(each, name) for each in tasks.values()])
            for name in columns
        }
    )


def plot(answers: Mapping[str, Mapping[str, Scored]], path: Path) -> None:
    """Accuracy over mean tokens: the single models as points, each method's scales as a line."""
    points = {
        name: (float(all_of_them.tokens.mean()), float(all_of_them.accuracy.mean()))
        for name, all_of_them in ((name, joined(tasks)) for name, tasks in answers.items())
    }
    figure = Figure(figsize=(7, 4.5), layout="tight")
    axes = figure.subplots()
    single = dict(points)
    for method in SCALES:
        line = [single.pop(name) for name in points if name.rpartition("-")[0] == method]
        if line:
            axes.plot(*zip(*line, strict=True), "o-", label=method.replace("_", " "))
    for at, (name, point) in enumerate(sorted(single.items(), key=lambda each: each[1])):
        axes.plot(*point, "ks" if name in ("base", "quick", "long") else "k^")
        below = (0, -12 - 10 * (at % 4))  # neighbours may lie close together
        axes.annotate(name, point, xytext=below, textcoords="offset points", ha="center")
    axes.set_xlabel("mean tokens of an answer")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.legend()
    write_plot(path, figure)


def _answers(folder: Path, name: str) -> dict[str, Scored]:
    return {task: scored(Pair(folder, name, task).rows()) for task in TASKS}


def _cell(estimate: Estimate, form: str) -> str:
    value, low, high = (format(x, form) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low}, {high})"
