"""The rules by which the bench chooses, written before its runs (docs/evidence.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from examples.evidence.merging.grid import CHOICES, PUBLISHED, Merge, choices, is_reading, scaled
from examples.evidence.merging.rows import Row, Set

GAIN = 0.005
"""Of mean accuracy: a single choice that gains more joins the combinations."""

Results = Mapping[Set, Mapping[str, Row]]
"""The rows of each set by their keys."""
Cell = tuple[str, str, int]
"""Family, kind and number of experts."""


def by_seed(results: Results, merge: Merge) -> dict[tuple[Cell, int], float]:
    """The mean accuracy of a merge over skills, of each cell and seed that has it."""
    return {
        ((bench.family, bench.kind, row.experts), bench.seed): float(np.mean(row.accuracy))
        for bench, rows in results.items()
        for row in rows.values()
        if (row.method, row.parameters) == (merge.method, merge.parameters)
    }


def cells(results: Results, merge: Merge) -> dict[Cell, float]:
    """The mean accuracy of a merge over the seeds of each cell that has it."""
    found = defaultdict(list)
    for (cell, _), accuracy in by_seed(results, merge).items():
        found[cell].append(accuracy)
    return {cell: float(np.mean(seeds)) for cell, seeds in found.items()}


def overall(results: Results, merge: Merge) -> float:
    """The mean accuracy of a merge over all cells, each weighing the same."""
    return float(np.mean(list(cells(results, merge).values())))


def best_scales(tuning: Results) -> dict[Cell, list[Merge]]:
    """For each cell every published method at the scale that is best there."""
    best = defaultdict(list)
    for merge in PUBLISHED:
        tried = [(each, cells(tuning, each)) for each in scaled(merge)]
        for cell in tried[0][1]:
            best[cell].append(max(tried, key=lambda one: one[1][cell])[0])
    return best


def combinations(tuning: Results) -> list[Merge]:
    """AMM with several choices at once, among readings and among all forms.

    The best choice of the kind that gains most with that of the kind that gains second most, then
    with the third too, … as long as a kind gains more than GAIN.
    """
    found = {}
    for choices_by_kind in (_only_readings(), CHOICES):
        gains = []
        for kind in choices_by_kind.values():
            best = chosen(tuning, [Merge("amm", choice) for choice in kind])
            gain = overall(tuning, best) - overall(tuning, Merge("amm"))
            gains.append((gain, best.parameters))
        together: dict[str, Any] = {}
        for count, (gain, choice) in enumerate(sorted(gains, key=lambda one: -one[0]), 1):
            if gain > GAIN:
                together = {**together, **choice}
                merge = Merge("amm", together)
                if count > 1:
                    found[merge.name] = merge
    return list(found.values())


def _only_readings() -> dict[str, list[Mapping[str, Any]]]:
    return {name: [each for each in kind if is_reading(each)] for name, kind in CHOICES.items()}


def best_forms(tuning: Results) -> list[Merge]:
    """AMM's most accurate reading, and its most accurate form of all, which may be the same."""
    candidates = [Merge("amm"), *choices(), *combinations(tuning)]
    readings = [merge for merge in candidates if is_reading(merge.parameters)]
    return [chosen(tuning, readings), chosen(tuning, candidates)]


def chosen(tuning: Results, candidates: Iterable[Merge]) -> Merge:
    """The most accurate over all cells."""
    return max(candidates, key=lambda merge: overall(tuning, merge))
