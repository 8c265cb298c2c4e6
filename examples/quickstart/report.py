"""What the quickstart leaves to read: results.json, report.md and two plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from examples.quickstart.tasks import TASKS
from examples.quickstart.train import curve
from examples.whole import write_json, write_plot
from lipo_verl.evaluate.results import write_whole

CURVE = {
    "response_tokens": "response_length/mean",
    "reward": "critic/score/mean",
}

MODELS = {
    "base_model": "base",
    "grpo-math": "GRPO: math",
    "lipo-math": "LIPO: math",
    "lipo-structure": "LIPO: structure",
    "lipo-ocr": "LIPO: ocr",
    "mean": "mean",
    "task_arithmetic": "task arithmetic",
    "wudi": "WUDI",
    "amm": "AMM",
}
"""What is evaluated, by its folder's name: the base, its experts, and the LIPO experts merged."""


def write(output: Path, settings: dict[str, Any]) -> None:
    """Gathers ``output``'s evaluations and training logs into the report."""
    results = {
        "settings": settings,
        "models": {
            name: {task: _figures(output / "evaluation" / name / f"{task}.json") for task in TASKS}
            for name in MODELS
        },
        "training": {
            folder.name: [
                {"step": row["step"], **{name: row[key] for name, key in CURVE.items()}}
                for row in curve(folder)
            ]
            for folder in sorted((output / "train").iterdir())
        },
    }
    write_json(output / "results.json", results)
    _plot_training(results["training"], output / "training.png")
    _plot_models(results["models"], output / "models.png")
    write_whole(output / "report.md", _markdown(results))


def show(output: Path) -> None:
    """Prints the table of the report."""
    results = json.loads((output / "results.json").read_text())
    table = Table(title="accuracy, and mean response tokens", title_justify="left", box=SIMPLE)
    header, *rows = _table(results["models"])
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(_comparison(results))


def _figures(path: Path) -> dict[str, Any]:
    """A model's figures on a task, from what ``lipo_verl.evaluate`` wrote."""
    found = json.loads(path.read_text())
    return {
        "accuracy": found["accuracy"],
        "mean_response_tokens": found["mean_tokens"],
        "samples": found["questions"],
        "truncated": found["truncated"],
    }


def _table(models: dict[str, Any]) -> list[list[str]]:
    rows = [["model", *TASKS, "average"]]
    for name, tasks in models.items():
        cells = [(tasks[task]["accuracy"], tasks[task]["mean_response_tokens"]) for task in TASKS]
        cells.append(tuple(sum(column) / len(TASKS) for column in zip(*cells, strict=True)))
        rows.append([MODELS[name], *(f"{score:.3f} {tokens:5.1f}" for score, tokens in cells)])
    return rows


def _comparison(results: dict[str, Any]) -> str:
    lipo, grpo = (results["models"][f"{name}-math"]["math"] for name in ("lipo", "grpo"))
    share = lipo["mean_response_tokens"] / grpo["mean_response_tokens"]
    points = 100 * (lipo["accuracy"] - grpo["accuracy"])
    return (
        f"LIPO against GRPO on math, from the same base, seed and steps: {share:.0%} of the tokens "
        f"at {points:+.1f} points of accuracy ({lipo['samples']} questions)."
    )


def _markdown(results: dict[str, Any]) -> str:
    header, *rows = _table(results["models"])
    lines = ["# Quickstart report", "", _comparison(results), ""]
    lines += ["Accuracy (OCR: Levenshtein similarity) and mean response tokens:", ""]
    lines += ["| " + " | ".join(header) + " |", "|---" + "|---:" * len(TASKS) + "|---:|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "![training](training.png)", "", "![models](models.png)", ""]
    lines += [f"Settings: `{json.dumps(results['settings'])}`. All figures: `results.json`.", ""]
    return "\n".join(lines)


def _plot_training(training: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    lengths, rewards = figure.subplots(1, 2)
    for name, rows in training.items():
        style = {"linestyle": "--", "color": "black"} if name.startswith("grpo") else {}
        steps = [row["step"] for row in rows]
        lengths.plot(steps, [row["response_tokens"] for row in rows], label=name, **style)
        rewards.plot(steps, [row["reward"] for row in rows], label=name, **style)
    lengths.set(xlabel="step", ylabel="mean response tokens", ylim=(0, None))
    rewards.set(xlabel="step", ylabel="mean reward", ylim=(None, 1.0))
    rewards.legend()
    for axes in (lengths, rewards):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    write_plot(path, figure)


def _plot_models(models: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, len(TASKS))
    for axes, task in zip(panels, TASKS, strict=True):
        for name, tasks in models.items():
            kind = "s" if name == "base_model" else "*" if name == "amm" else "o"
            axes.plot(
                tasks[task]["mean_response_tokens"],
                tasks[task]["accuracy"],
                kind,
                markersize=11 if kind == "*" else 7,
                label=MODELS[name],
            )
        axes.set(title=task, xlabel="mean response tokens", xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right", fontsize="small")
    write_plot(path, figure)
