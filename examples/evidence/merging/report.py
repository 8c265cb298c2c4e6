"""Makes the part of docs/evidence.md that is about merging from the committed results:

    python -m examples.evidence.merging.report

A phase that is not finished yet is reported as far as it is, and the page says so.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from examples.evidence.measures import over_seeds
from examples.evidence.merging import bench
from examples.evidence.merging.choice import (
    Cell,
    Results,
    best_forms,
    best_scales,
    by_seed,
    cells,
    combinations,
    overall,
)
from examples.evidence.merging.grid import CHOICES, PUBLISHED, WITHOUT, Merge
from examples.evidence.merging.rows import Row
from examples.evidence.report import PAGE, interval, points, replace, table
from lipo_verl.evaluate.results import write_whole

RESULTS = Path(__file__).parents[1] / "results" / "merging"
SIZE = bench.SIZES["full"]
PEER = Merge("wudi")


def read(phase: str, folder: Path) -> Results:
    """The rows of a phase's sets that have any."""
    found = bench.read(bench.sets(phase, SIZE), folder)
    return {each: rows for each, rows in found.items() if rows}


def conflicting(results: Results) -> Results:
    """The sets whose experts contradict each other."""
    return {each: rows for each, rows in results.items() if each.family != "rl"}


def against(results: Results, merge: Merge, peer: Merge, experts: int | None = None) -> str:
    """Accuracy less the peer's in points, paired: the mean over the cells that a seed has of both,
    and its interval over seeds."""
    ours, theirs = by_seed(results, merge), by_seed(results, peer)
    apart = defaultdict(list)
    for (cell, seed), accuracy in ours.items():
        if (cell, seed) in theirs and experts in (None, cell[2]):
            apart[seed].append(accuracy - theirs[cell, seed])
    differences = np.array([np.mean(each) for each in apart.values()])
    return points(over_seeds(differences)) if apart else ""


def families(experts: int) -> list[Cell]:
    return [(family, kind, experts) for family, kind in SIZE.families]


def accuracies(results: Results, merge: Merge, wanted: Sequence[Cell]) -> list[str]:
    """Of each cell, then their mean."""
    found = cells(results, merge)
    told = [f"{found[cell]:.3f}" if cell in found else "" for cell in wanted]
    every = all(cell in found for cell in wanted)
    return [*told, f"{np.mean([found[cell] for cell in wanted]):.3f}" if every else ""]


def methods(results: Results, tuning: Results, experts: int) -> Iterator[list[str]]:
    """The rows of the table of methods for one number of experts, the most accurate first."""
    wanted = families(experts)
    scales = best_scales(tuning) if tuning else {}
    for merge in map(Merge, ("base", "experts", "mixture")):
        yield [f"*{merge.name}*", *accuracies(results, merge, wanted), "", ""]
    found = []
    for number, merge in enumerate(PUBLISHED):
        at_scale = {cell: best[number] for cell, best in scales.items() if cell in wanted}
        tuned = [cells(results, at_scale[cell]).get(cell) for cell in wanted if cell in at_scale]
        told = accuracies(results, merge, wanted)
        found.append(
            [
                f"`{merge.name}`",
                *told,
                "" if merge == PEER else against(results, merge, PEER, experts),
                f"{np.mean(tuned):.3f}" if len(tuned) == len(wanted) and None not in tuned else "",
            ]
        )
    yield from sorted(found, key=lambda row: row[len(wanted) + 1], reverse=True)


def header(first: str, *last: str) -> tuple[str, ...]:
    names = [family if kind == "full" else f"{family}, LoRA" for family, kind in SIZE.families]
    return (first, *names, "mean", *last)


def ingredients(results: Results, best: Sequence[Merge]) -> Iterator[list[str]]:
    """AMM with some of what makes it, against WUDI, by the number of experts."""
    merges = {merge.name: merge for merge in [PEER, *WITHOUT, Merge("amm"), *best]}
    for merge in merges.values():
        told = [against(results, merge, PEER, experts) for experts in (*SIZE.experts, None)]
        yield [f"`{merge.name}`", *([""] * len(told) if merge == PEER else told)]


def choices_made(
    tuning: Results, combined: Sequence[Merge], reading: Merge, form: Merge
) -> Iterator[list[str]]:
    """AMM's open choices, one at a time and combined: the means over the cells of tuning."""
    kinds = {"": [Merge("amm")]}
    kinds |= {kind: [Merge("amm", each) for each in found] for kind, found in CHOICES.items()}
    kinds["combined"] = list(combined)
    for kind, merges in kinds.items():
        for merge in merges:
            found = cells(tuning, merge)
            marks = {"the best reading": reading, "the best": form}
            told = "".join(f"; **{mark}**" for mark, best in marks.items() if best == merge)
            means = [np.mean([found[cell] for cell in families(k)]) for k in SIZE.experts]
            yield [
                kind,
                f"`{merge.name}`{told}",
                *(f"{mean:.3f}" for mean in means),
                f"{overall(tuning, merge):.3f}",
            ]


def reinforced(results: Results) -> Iterator[list[str]]:
    """Accuracy and tokens of the experts of reinforcement learning and of their merges."""
    rl = [rows for each, rows in results.items() if each.family == "rl"]
    for merge in [Merge("base"), Merge("experts"), *PUBLISHED]:
        key = Row(3, merge.method, merge.parameters).key
        found = [rows[key] for rows in rl if key in rows]
        if found:
            accuracy = over_seeds(np.array([np.mean(row.accuracy) for row in found]))
            tokens = np.mean([row.tokens for row in found])
            told = f"{100 * accuracy.value:.1f}{interval(accuracy, '.1f')}"
            yield [f"`{merge.name}`", told, f"{tokens:.1f}"]


def results_section(folder: Path) -> list[str]:
    """The page's part that is made from results."""
    done = finished(folder)
    tuning, everything = read("tune", folder), read("report", folder)
    reported = conflicting(everything)
    if done < 2:
        return [
            f"Tuning is under way: {len(tuning)} of {len(bench.sets('tune', SIZE))} sets begun."
        ]
    combined = combinations(tuning)
    reading, form = best_forms(tuning)
    lines = []
    if reported:
        seeds = sorted({each.seed for each in reported})
        lines += [f"Reported seeds {', '.join(map(str, seeds))}."]
        if done < 3:
            lines += ["Not all of their sets are done yet."]
        for experts in SIZE.experts:
            lines += [
                "",
                f"**{experts} experts**, accuracy by family; against WUDI, in points, paired by "
                "set; the mean with each method's scale tuned:",
                "",
                *table(
                    header("method", "against WUDI", "scale tuned"),
                    methods(reported, tuning, experts),
                ),
            ]
        lines += [
            "",
            "AMM with and without what makes it, against WUDI, in points:",
            "",
            *table(
                ("", *(f"{experts} experts" for experts in SIZE.experts), "all"),
                ingredients(reported, [reading, form]),
            ),
            "",
        ]
    if any(each.family == "rl" for each in everything):
        lines += [
            "The experts of reinforcement learning, on the quickstart's tasks:",
            "",
            *table(("", "accuracy, %", "tokens"), reinforced(everything)),
            "",
        ]
    lines += [
        "AMM's open choices on the seeds of tuning, mean accuracy:",
        "",
        *table(
            ("kind", "merge", *(f"{experts} experts" for experts in SIZE.experts), "all"),
            choices_made(tuning, combined, reading, form),
        ),
    ]
    return lines


def finished(folder: Path) -> int:
    """How many of `bench.phases` have all their rows."""
    done = 0
    for among, merges in bench.phases(SIZE, folder):
        if any(bench.undone(each, merges, SIZE, folder) for each in among):
            break
        done += 1
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.evidence.merging.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    folder = parser.parse_args().results
    page = PAGE.read_text(encoding="utf-8")
    write_whole(PAGE, replace(page, "merging", results_section(folder)))


if __name__ == "__main__":
    main()
