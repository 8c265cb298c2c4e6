"""Merges the experts by every method, evaluates base, experts, baselines and merges: one table.

    python -m examples.tiny_r1v.table --base Qwen/Qwen2.5-VL-3B-Instruct \
        --data data/tiny_r1v/3b --output runs/3b/verl/table \
        runs/3b/verl/{lipo,grpo,dapo}-{math,structure,ocr,mixture} -- --max-tokens 2048

Takes training runs, folders called ``<algorithm>-<expert>``; of each the best checkpoint by
validation (``examples.tiny_r1v.pick``). The experts of one algorithm are merged; those of the
others, and mixture training, are what to compare with. All answer the experts' validation
questions. What stands behind ``--`` goes to ``python -m lipo_verl.evaluate``.

The same command resumes. Leaves ``table.md``, ``table.json`` and ``table.png``,
the models in ``models/`` and every answer in ``evaluation/``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from amm import InputError
from amm.errors import did_you_mean
from examples.tiny_r1v.pick import pick
from examples.whole import write_json, write_plot
from lipo_verl.evaluate.results import Pair, comparison, comparison_line, write_whole

MERGE = Path(__file__).with_name("merge.yaml")
METHODS = (
    *("amm", "dare", "iso_c", "mean", "optmerge", "ridge", "task_arithmetic", "ties", "tsv"),
    *("wudi", "wudi_spectral"),
)
"""What may be merged by: methods of one model for all tasks, at their defaults."""

MIXTURE = "mixture"
"""Trained on the data of all experts: what merging is compared with, not one of them."""

MARKERS = {"base": "s", "expert": "o", "baseline": "^", "merge": "D"}


class StepFailed(RuntimeError):
    """A merge or the evaluation ended with an error, which it has printed."""


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        name: of the model.
        kind: a key of MARKERS.
        path: a Hugging Face folder or Hub id.
    """

    name: str
    kind: str
    path: str


def merge(method: str, base: str, experts: Sequence[str], output: Path, device: str) -> None:
    """Merges by a method at its defaults, unless the output is there.

    Raises amm.InputError where the output holds another merge, and StepFailed.
    """
    wanted = {"base": base, "experts": list(experts), "method": method}
    if output.exists():
        _check_same(output, wanted)
        return
    print(f"Merging by {method}: {output}", flush=True)
    command = [sys.executable, "-m", "amm", "merge", str(MERGE), "--device", device]
    settings = wanted | {"experts": json.dumps(wanted["experts"]), "output": output}
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    if subprocess.run(command).returncode != 0:
        raise StepFailed(f"the merge by {method} failed; its message is above")


def table(
    runs: Sequence[Path],
    base: str,
    data: Path,
    output: Path,
    merged: str = "lipo",
    methods: Sequence[str] = METHODS,
    device: str = "cpu",
    evaluation: Sequence[str] = (),
) -> Path:
    """Makes what is missing of the table, and returns its Markdown file.

    runs:       output folders of training runs, called ``<algorithm>-<expert>``
    data:       folder with ``<expert>/val.parquet``
    merged:     the algorithm whose experts are merged
    evaluation: further arguments of ``lipo_verl.evaluate``

    Raises amm.InputError and StepFailed.
    """
    for method in methods:
        if method not in METHODS:
            raise InputError(f"The table has no method {method}. {did_you_mean(method, METHODS)}")
    experts = experts_of(runs, merged)
    entries = [Entry("base", "base", base)]
    checkpoints = {}
    for run in runs:
        choice = pick(run)
        print(f"{run.name}: {choice.checkpoint.name}\n{choice.reason}\n", flush=True)
        checkpoints[run.name] = str(choice.checkpoint.resolve())
        # vLLM reads Hugging Face folders: the mean of one expert is that expert.
        inputs, folder = [checkpoints[run.name]], output / "models" / run.name
        merge("mean", base, inputs, folder, device)
        kind = "expert" if run.name in experts.values() else "baseline"
        entries.append(Entry(run.name, kind, str(folder)))
    for method in methods:
        inputs = [checkpoints[name] for name in experts.values()]
        folder = output / "models" / method
        merge(method, base, inputs, folder, device)
        entries.append(Entry(method, "merge", str(folder)))
    command = [sys.executable, "-m", "lipo_verl.evaluate"]
    command += [f"{entry.name}={entry.path}" for entry in entries]
    command += ["--data", *(f"{expert}={data / expert / 'val.parquet'}" for expert in experts)]
    command += ["--output", str(output / "evaluation"), *evaluation]
    if subprocess.run(command).returncode != 0:
        raise StepFailed("the evaluation failed; its message is above")
    return write(output, entries, experts)


def experts_of(runs: Sequence[Path], algorithm: str) -> dict[str, str]:
    """Expert → name of its run, of the runs of one algorithm that are to be merged.

    Raises amm.InputError where there are fewer than two, or two runs have one name.
    """
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two runs are called {name}; a table has room for one.")
    experts = {
        expert: name
        for name in names
        for of, _, expert in [name.partition("-")]
        if of == algorithm and expert != MIXTURE
    }
    if len(experts) < 2:
        raise InputError(
            f"Merging needs two runs called {algorithm}-<expert>; there are {len(experts)} among "
            f"{', '.join(names)}."
        )
    return experts


def write(output: Path, entries: Sequence[Entry], experts: Mapping[str, str]) -> Path:
    """Writes the table from the finished evaluation, and returns the Markdown file.

    experts: expert → name of its run
    """
    evaluation = output / "evaluation"
    rows = []
    for entry in entries:
        figures = {
            expert: _shown(Pair(evaluation, entry.name, expert).read()) for expert in experts
        }
        average = {
            name: sum(each[name] for each in figures.values()) / len(figures)
            for name in ("accuracy", "mean_tokens")
        }
        rows.append(
            {"model": entry.name, "kind": entry.kind, "figures": figures, "average": average}
        )
    comparisons = [
        comparison(Pair(evaluation, entry.name, expert), Pair(evaluation, own, expert))
        for expert, own in experts.items()
        for entry in entries
        if entry.kind == "baseline" and entry.name.partition("-")[2] == expert
    ]
    write_json(output / "table.json", {"rows": rows, "comparisons": comparisons})
    _plot(rows, list(experts), output / "table.png")
    write_whole(output / "table.md", markdown(rows, list(experts), comparisons))
    return output / "table.md"


def markdown(
    rows: Sequence[Mapping[str, Any]],
    files: Sequence[str],
    comparisons: Sequence[Mapping[str, Any]],
) -> str:
    """The table: accuracy and mean tokens of every model on every file, with half the width of
    their 95 % intervals, and the plain average over files; then the comparisons in words."""
    header = ["model", *files, "average"]
    lines = [
        "# Accuracy and mean tokens of an answer",
        "",
        "± is half of the 95 % interval; the average is over files. Checkpoints were picked on the "
        "same questions, which flatters trained models a little.",
        "",
        f"| {' | '.join(header)} |",
        "|---" + "|---:" * (len(files) + 1) + "|",
    ]
    for row in rows:
        cells = [
            f"{figures['accuracy']:.3f} ± {_half(figures['accuracy_interval']):.3f} · "
            f"{figures['mean_tokens']:.1f} ± {_half(figures['mean_tokens_interval']):.1f}"
            for figures in row["figures"].values()
        ]
        average = row["average"]
        cells.append(f"{average['accuracy']:.3f} · {average['mean_tokens']:.1f}")
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    lines += ["", "![tokens against accuracy](table.png)", ""]
    if comparisons:
        lines += ["## Question by question, on the expert's own data", ""]
        lines += [f"- {comparison_line(each)}" for each in comparisons] + [""]
    return "\n".join(lines)


def _shown(figures: Mapping[str, Any]) -> dict[str, Any]:
    names = ("accuracy", "mean_tokens", "tokens_per_correct")
    return {
        "questions": figures["questions"],
        "truncated": figures["truncated"],
        **{key: figures[key] for name in names for key in (name, f"{name}_interval")},
    }


def _half(interval: Sequence[float]) -> float:
    return (interval[1] - interval[0]) / 2


def _check_same(output: Path, wanted: Mapping[str, Any]) -> None:
    """Raises InputError where a folder isn't the merge that is wanted."""
    try:
        made = json.loads((output / "provenance.json").read_text())["config"]
    except FileNotFoundError:
        raise InputError(f"{output} is in the way: it is no merge. Remove it.") from None
    for key, value in wanted.items():
        if made[key] != value:
            raise InputError(
                f"{output} was merged with {key} {made[key]}, now it is {value}. Remove it, or "
                "choose another --output."
            )


def _plot(rows: Sequence[Mapping[str, Any]], files: Sequence[str], path: Path) -> None:
    columns = min(len(files), 3)
    lines = -(-len(files) // columns)
    names = -(-len(rows) // (14 * lines))  # columns of the legend, which is no higher than the rest
    size = (3.2 * columns + 1.6 * names, 3.4 * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes, file in zip(panels.flat, files, strict=False):
        colors = {kind: cycle(colormaps["tab20"].colors) for kind in MARKERS}
        for row in rows:
            figures = row["figures"][file]
            axes.errorbar(
                figures["mean_tokens"],
                figures["accuracy"],
                xerr=_arms(figures, "mean_tokens"),
                yerr=_arms(figures, "accuracy"),
                fmt=MARKERS[row["kind"]],
                color=next(colors[row["kind"]]),
                markersize=10 if row["model"] == "amm" else 6,
                elinewidth=0.6,
                label=row["model"],
            )
        axes.set(title=file, xlabel="mean tokens", ylabel="accuracy")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(files) :]:
        axes.set_visible(False)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right", fontsize="small", ncols=names)
    write_plot(path, figure)


def _arms(figures: Mapping[str, Any], name: str) -> list[list[float]]:
    low, high = figures[f"{name}_interval"]
    return [[max(0.0, figures[name] - low)], [max(0.0, high - figures[name])]]


def main() -> None:
    arguments = sys.argv[1:]
    own, evaluation = arguments, []
    if "--" in arguments:
        place = arguments.index("--")
        own, evaluation = arguments[:place], arguments[place + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="training runs")
    parser.add_argument("--base", required=True, help="folder or Hub id")
    parser.add_argument("--data", type=Path, required=True, help="has <expert>/val.parquet")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--merged", default="lipo", help="whose experts are merged; default lipo")
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        default=list(METHODS),
        metavar="METHOD,METHOD",
        help=f"default: {','.join(METHODS)}",
    )
    parser.add_argument("--device", default="cpu", help="where the methods run: cpu, cuda")
    try:
        target = table(**vars(parser.parse_args(own)), evaluation=evaluation)
    except (InputError, StepFailed) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command resumes.")
    print(target.read_text())


if __name__ == "__main__":
    main()
