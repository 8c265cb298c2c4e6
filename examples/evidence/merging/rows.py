"""What the bench leaves: a line of JSON for each merge, from which every figure is made again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from examples.evidence.merging.skills import Skill, as_trained, draw_skills
from examples.whole import whole


@dataclass(frozen=True)
class Set:
    """Experts that are merged with one another; of fewer experts, the first ones."""

    phase: str
    """tune or report."""
    family: str
    """Of `skills.FAMILIES`, or rl: the quickstart's tasks."""
    kind: str
    """full, lora, or lipo: how experts were trained."""
    seed: int

    @property
    def name(self) -> str:
        return f"{self.phase}_{self.family}_{self.kind}_{self.seed}"

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.jsonl"

    def skills(self) -> list[Skill]:
        return as_trained() if self.family == "rl" else draw_skills(self.family, self.seed)


@dataclass(frozen=True)
class Row:
    """A model's answers to the questions of the first `experts` skills."""

    experts: int
    method: str
    """Of amm; or base, experts (each asked for its own skill), mixture (one trained on all)."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Sequence[float] = ()
    """By skill, the share of right answers."""
    tokens: Sequence[float] = ()
    """By skill, mean length of the answers."""

    @property
    def key(self) -> str:
        return json.dumps([self.experts, self.method, self.parameters], sort_keys=True)


def read(path: Path) -> dict[str, Row]:
    """The rows of a file by their keys; of one that is not there, none."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as lines:
        found = [Row(**json.loads(line)) for line in lines]
    return {row.key: row for row in found}


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes the rows, a line each."""
    with whole(path) as unfinished:
        lines = (json.dumps(asdict(row)) + "\n" for row in rows)
        unfinished.write_text("".join(lines), encoding="utf-8")
