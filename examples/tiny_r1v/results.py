"""The paper's main result beside a run's: scores and tokens per answer on the ten benchmarks.

    python -m examples.tiny_r1v.results runs/vlmevalkit Qwen2.5-VL-3B-Instruct grpo tiny-r1v-3b

Reads what VLMEvalKit and ``examples.tiny_r1v.eval.predictions`` left there for each named model,
and writes ``results.md`` and ``results.json`` beside it. A benchmark that is missing or failed is a
dash, and the page says why.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amm import InputError
from amm.errors import did_you_mean
from examples.tiny_r1v.eval.benchmarks import BENCHMARKS, Benchmark
from examples.tiny_r1v.eval.predictions import FAILED, TOKENS, newest, read
from examples.whole import write_json
from lipo_verl.evaluate.results import write_whole

PAPER_TOKENS = {"MathVista": (138, 83), "MathVision": (440, 115)}
"""Tokens of an answer after GRPO and after LIPO, as the paper reports them; 440 is "about" [V]."""


@dataclass(frozen=True)
class Result:
    """A model on a benchmark.

    Attributes:
        score: in the paper's unit; None where there is none.
        tokens: mean tokens of an answer, without the end of turn; None where they weren't counted.
        answers: how many there are.
        failed: how many questions the server didn't answer.
        notes: why something is missing or doubtful.
    """

    score: float | None = None
    tokens: float | None = None
    answers: int = 0
    failed: int = 0
    notes: list[str] = field(default_factory=list)


def results(model: Path) -> dict[str, Result]:
    """A model's results by the paper's names of the benchmarks.

    model: ``<work dir>/<model's name>`` of VLMEvalKit

    Raises amm.InputError where there are no predictions, or metrics of an unknown kind.
    """
    files = newest(model)
    return {
        benchmark.name: _result(model, benchmark, files.get(benchmark.dataset))
        for benchmark in BENCHMARKS
    }


def markdown(models: Mapping[str, Mapping[str, Result]]) -> str:
    """The page: a row for each benchmark, the paper's two models, then each of the run's."""
    header = ["benchmark", "Qwen2.5-VL-3B, paper [F]", "Tiny-R1V-3B, paper [V]"]
    header += [f"{name}: score · tokens" for name in models]
    lines = [
        "# Results on the paper's benchmarks",
        "",
        "The paper's numbers: [V] said by it, [F] measured from its figure. This run's: scores of "
        "VLMEvalKit, and mean tokens of an answer without its end-of-turn token.",
        "",
        f"| {' | '.join(header)} |",
        "|---" + "|---:" * (len(header) - 1) + "|",
    ]
    for benchmark in BENCHMARKS:
        cells = [benchmark.name, f"{benchmark.base:g}", f"{benchmark.tiny_r1v:g}"]
        cells += [_cell(found[benchmark.name]) for found in models.values()]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "What the paper says of length [V], tokens of an answer by GRPO and by LIPO: "
        + "; ".join(f"{name} {grpo} and {lipo}" for name, (grpo, lipo) in PAPER_TOKENS.items())
        + " (440: about).",
        "",
        "Judge, prompt, image size and the splits of MathVerse, WeMath and CharXiv are not "
        "published: compare with this run's own base model first.",
        "",
    ]
    notes = [
        f"- {model}, {name}: {note}"
        for model, found in models.items()
        for name, result in found.items()
        for note in result.notes
    ]
    if notes:
        lines += ["## Missing or doubtful", "", *notes, ""]
    return "\n".join(lines)


def _result(model: Path, benchmark: Benchmark, file: Path | None) -> Result:
    if file is None:
        return Result(notes=["no predictions"])
    rows = read(file)
    failed = sum(FAILED in row["prediction"] for row in rows)
    counts = [int(row[TOKENS]) for row in rows if row.get(TOKENS)]
    notes = [f"{failed} of {len(rows)} questions without an answer"] if failed else []
    if not counts:
        notes.append("tokens not counted; run examples.tiny_r1v.eval.predictions")
    score, problem = _score(model, benchmark)
    return Result(
        score=score,
        tokens=sum(counts) / len(counts) if counts else None,
        answers=len(rows),
        failed=failed,
        notes=notes + ([problem] if problem else []),
    )


def _score(model: Path, benchmark: Benchmark) -> tuple[float | None, str]:
    """The newest score, or why there is none."""
    problem = "not scored"
    for run in sorted(model.glob("T*-*"), reverse=True):
        status = run / "status.json"
        if not status.is_file():
            continue
        found = json.loads(status.read_text(encoding="utf-8"))["datasets"].get(benchmark.dataset)
        if found is None:
            continue
        metrics = _from_csv(run, benchmark) if benchmark.in_csv else found.get("metrics")
        if metrics:
            return benchmark.score(metrics), ""
        if "error_message" in found:
            problem = f"scoring failed: {found['error_message'].splitlines()[0]}"
    return None, problem


def _from_csv(run: Path, benchmark: Benchmark) -> dict[str, float]:
    """Percentages of the score's CSV file, as numbers."""
    metrics: dict[str, float] = {}
    for file in run.glob(f"*_{benchmark.dataset}*_score.csv"):
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                metrics |= {
                    key: float(value.removesuffix("%"))
                    for key, value in row.items()
                    if value.endswith("%")
                }
    return metrics


def _cell(result: Result) -> str:
    score = "–" if result.score is None else f"{result.score:.1f}"
    tokens = "–" if result.tokens is None else f"{result.tokens:.1f}"
    return f"{score} · {tokens}"


def write(work: Path, names: Sequence[str]) -> Path:
    """Writes the page for the named models, and returns it.

    Raises amm.InputError for a model that isn't there.
    """
    if not work.is_dir():
        raise InputError(f"There is no folder {work}.")
    known = [folder.name for folder in work.iterdir() if any(folder.glob("T*-*"))]
    for name in names:
        if name not in known:
            raise InputError(f"{work} has no model {name}. {did_you_mean(name, known)}")
    models = {name: results(work / name) for name in names}
    content: dict[str, Any] = {
        "paper": {each.name: {"base": each.base, "tiny_r1v": each.tiny_r1v} for each in BENCHMARKS},
        "run": {
            model: {name: asdict(result) for name, result in found.items()}
            for model, found in models.items()
        },
    }
    write_json(work / "results.json", content)
    write_whole(work / "results.md", markdown(models))
    return work / "results.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="VLMEvalKit's --work-dir")
    parser.add_argument("names", nargs="+", metavar="MODEL", help="names under which models ran")
    arguments = parser.parse_args()
    try:
        page = write(arguments.work, arguments.names)
    except InputError as error:
        sys.exit(f"Error: {error}")
    print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
