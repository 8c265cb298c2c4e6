"""What an evaluation leaves on disk: `<model>/<file>.jsonl` and `.json`, and a summary of all.

The `.json` is written last and whole, so it marks a finished pair of model and file.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lipo_verl.evaluate import statistics
from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.statistics import Estimate, Scored

ESTIMATES = {
    "accuracy": statistics.accuracy,
    "mean_tokens": statistics.mean_tokens,
    "tokens_per_correct": statistics.tokens_per_correct,
}
_HEADER = (
    "model",
    "accuracy",
    "tokens",
    "tokens per correct",
    "truncated",
    "answer found",
    "form kept",
    "questions",
)


@dataclass(frozen=True)
class Pair:
    """Where the results of one model on one file are."""

    folder: Path
    model: str
    file: str

    @property
    def samples(self) -> Path:
        return self.folder / self.model / f"{self.file}.jsonl"

    @property
    def figures(self) -> Path:
        return self.folder / self.model / f"{self.file}.json"

    def finished(self, identity: Mapping[str, Any]) -> bool:
        """Whether the results are there.

        Args:
            identity: what the answers depend on.

        Raises:
            EvaluationError: they are those of another identity.
        """
        if not self.figures.exists():
            return False
        found = json.loads(self.figures.read_text())["identity"]
        if found == identity:
            return True
        differences = [
            f"{key} was {found.get(key)!r}, now {value!r}"
            for key, value in identity.items()
            if found.get(key) != value
        ]
        raise EvaluationError(
            f"{self.figures} holds another evaluation: {'; '.join(differences)}. Delete it, or "
            "choose another --output."
        )

    def write(self, rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the answers as they come, then their figures, which are returned."""
        with _whole(self.samples) as lines:
            for row in rows:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        content = {**figures(self.rows()), **facts}
        write_whole(self.figures, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return content

    def read(self) -> dict[str, Any]:
        """The figures."""
        return json.loads(self.figures.read_text())

    def rows(self) -> list[dict[str, Any]]:
        """The answers, in the order of the questions."""
        with self.samples.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def scored(rows: Sequence[Mapping[str, Any]]) -> Scored:
    """The columns of answers that the figures are made of."""
    return Scored(
        accuracy=np.array([row["accuracy"] for row in rows]),
        tokens=np.array([row["tokens"] for row in rows]),
        truncated=np.array([row["truncated"] for row in rows]),
    )


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of N answers, and of each data source where there are several."""
    sources = list(dict.fromkeys(row["data_source"] for row in rows))
    content = _figures(rows)
    if len(sources) > 1:
        content["by_source"] = {
            source: _figures([row for row in rows if row["data_source"] == source])
            for source in sources
        }
    return content


def comparison(one: Pair, other: Pair) -> dict[str, Any]:
    """How `other` differs from `one` on the same questions."""
    a, b = scored(one.rows()), scored(other.rows())
    return {
        "file": one.file,
        "baseline": one.model,
        "model": other.model,
        "questions": len(a.tokens),
        **_with_interval("accuracy_difference", statistics.accuracy_difference(a, b)),
        **_with_interval("token_ratio", statistics.token_ratio(a, b)),
    }


def line(content: Mapping[str, Any]) -> str:
    """The figures of a model on a file in a line."""
    low, high = content["accuracy_interval"]
    per_correct = content["tokens_per_correct"]
    return (
        f"accuracy {content['accuracy']:.3f} ({low:.3f} to {high:.3f})  "
        f"{content['mean_tokens']:6.1f} tokens"
        + ("" if per_correct is None else f"  {per_correct:6.1f} per correct answer")
        + f"  {content['questions']} questions"
        + "".join(
            f"  {content[share]:.1%} {words}"
            for share, words in (("answer_found", "with an answer"), ("format", "in the form"))
            if content.get(share, 1) < 1
        )
        + (f"  {content['unscored']} not scored" if content["unscored"] else "")
    )


def comparison_line(content: Mapping[str, Any]) -> str:
    """A comparison in words."""
    low, high = (100 * end for end in content["accuracy_difference_interval"])
    few, many = content["token_ratio_interval"]
    return (
        f"{content['model']} against {content['baseline']} on {content['file']}: "
        f"{100 * content['accuracy_difference']:+.1f} points of accuracy "
        f"({low:+.1f} to {high:+.1f}), {content['token_ratio']:.0%} of the tokens "
        f"({few:.0%} to {many:.0%})"
    )


def write_summary(
    folder: Path, pairs: Sequence[Pair], comparisons: Sequence[Mapping[str, Any]]
) -> Path:
    """Write `summary.json` and `summary.md`, and return the latter."""
    content: dict[str, Any] = {"figures": {}, "comparisons": list(comparisons)}
    for pair in pairs:
        content["figures"].setdefault(pair.file, {})[pair.model] = pair.read()
    write_whole(folder / "summary.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    target = folder / "summary.md"
    write_whole(target, _markdown(content))
    return target


def write_whole(path: Path, text: str) -> None:
    """Write under another name first, so that a file of the right name is a whole one."""
    with _whole(path) as file:
        file.write(text)


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        yield file
    unfinished.replace(path)


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = scored(rows)
    content: dict[str, Any] = {"questions": len(rows)}
    for name, estimate in ESTIMATES.items():
        content |= _with_interval(name, estimate(columns))
    if "format" in rows[0]:  # with a template only
        content["format"] = sum(row["format"] for row in rows) / len(rows)
    return content | {
        "truncated": float(columns.truncated.mean()),
        "answer_found": sum(row["answer_found"] for row in rows) / len(rows),
        "unscored": sum(row["reward_error"] for row in rows),
    }


def _with_interval(name: str, estimate: Estimate) -> dict[str, Any]:
    ends = (estimate.low, estimate.high)
    return {name: _number(estimate.value), f"{name}_interval": [_number(end) for end in ends]}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _markdown(content: Mapping[str, Any]) -> str:
    lines = ["# Evaluation", "", "In brackets: 95 % intervals. Tokens include the end of turn.", ""]
    for file, models in content["figures"].items():
        lines += [f"## {file}", "", _row(_HEADER), "|---" + "|---:" * (len(_HEADER) - 1) + "|"]
        for model, found in models.items():
            cells = [
                _cell(found, "accuracy", ".3f"),
                _cell(found, "mean_tokens", ".1f"),
                _cell(found, "tokens_per_correct", ".1f"),
                f"{found['truncated']:.1%}",
                f"{found['answer_found']:.1%}",
                f"{found['format']:.1%}" if "format" in found else "–",
                str(found["questions"]),
            ]
            lines.append(_row([model, *cells]))
        lines.append("")
    if content["comparisons"]:
        lines += ["## Question by question", ""]
        lines += [f"- {comparison_line(each)}" for each in content["comparisons"]]
        lines.append("")
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(found: Mapping[str, Any], name: str, form: str) -> str:
    value, low, high = (
        "∞" if number is None else format(number, form)
        for number in (found[name], *found[f"{name}_interval"])
    )
    return f"{value} ({low}, {high})"
