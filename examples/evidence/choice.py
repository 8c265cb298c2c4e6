"""The rules by which the study chooses, written before its runs (docs/evidence.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from examples.evidence.results import Result

Name = TypeVar("Name", bound=Hashable)

BASELINE = "grpo"
HARD = 3
"""A question is hard from so many steps on."""
TUNING_SLACK = 0.02
"""Of accuracy below the baseline's, on all questions of one tuning run."""
SLACK = 0.01
"""Of accuracy below the baseline's, on hard questions: a sound arm loses no more."""
COLLAPSE = 0.05
"""Of accuracy below the baseline's, on hard questions: an arm that loses more has collapsed."""
TIE = 1.0
"""Token: what is sound and so near to the shortest is as short, and its accuracy decides."""
BEST = 3
"""How many of the best arms of all are finalists."""

Points = Mapping[str, tuple[float, float]]
"""Of arms, tokens and accuracy."""


def chosen_strengths(tuning: Sequence[Result]) -> dict[str, float | int | None]:
    """For each arm the `shortest_sound` strength, which may lose TUNING_SLACK on all questions."""
    (baseline,) = (result for result in tuning if result.trial.arm == BASELINE)
    floor = baseline.correct.mean() - TUNING_SLACK
    points = defaultdict(dict)
    for result in tuning:
        point = (result.tokens.mean(), result.correct.mean())
        points[result.trial.arm][result.trial.strength] = point
    return {arm: shortest_sound(tried, floor) for arm, tried in points.items()}


def finalists(reported: Iterable[Result], stressed: Iterable[Result]) -> list[str]:
    """GRPO, LIPO as published, the best of LIPO's arms and the BEST best arms of all."""
    hard, strained = hard_points(reported), hard_points(stressed)
    arms = {arm: point for arm, point in hard.items() if arm != BASELINE}
    best = ranked(arms, hard[BASELINE][1] - SLACK, strained)
    return list(dict.fromkeys([BASELINE, "lipo", best_of_lipo(hard, strained), *best[:BEST]]))


def best_of_lipo(hard: Points, strained: Points) -> str:
    """The first of LIPO's arms as they are `ranked`, which may lose SLACK on hard questions."""
    arms = {arm: point for arm, point in hard.items() if arm.startswith("lipo")}
    return ranked(arms, hard[BASELINE][1] - SLACK, strained)[0]


def ranked(points: Points, floor: float, strained: Points) -> list[str]:
    """Arms from the best on: first the sound ones, whose accuracy is at least the floor, by their
    tokens, where those within TIE of the fewest go by their accuracy under stress; then the others
    by their accuracy."""
    sound = {arm: tokens for arm, (tokens, accuracy) in points.items() if accuracy >= floor}
    fewest = min(sound.values(), default=0.0)

    def place(arm: str) -> tuple[int, float]:
        tokens, accuracy = points[arm]
        if arm not in sound:
            return 2, -accuracy
        return (1, tokens) if tokens > fewest + TIE else (0, -strained[arm][1])

    return sorted(points, key=place)


def shortest_sound(points: Mapping[Name, tuple[float, float]], floor: float) -> Name:
    """Of (tokens, accuracy) the most accurate one among those that are sound, with an accuracy of
    at least the floor, and within TIE of the fewest tokens; if none is sound, among all. Of equally
    accurate ones the one of fewer tokens."""
    sound = {name: tokens for name, (tokens, accuracy) in points.items() if accuracy >= floor}
    fewest = min(sound.values(), default=0.0)
    short = [name for name, tokens in sound.items() if tokens <= fewest + TIE]
    return max(short or points, key=lambda name: (points[name][1], -points[name][0]))


def hard_points(results: Iterable[Result]) -> dict[str, tuple[float, float]]:
    """Mean tokens and accuracy of each arm on hard questions, over its seeds."""
    points = defaultdict(list)
    for result in results:
        hard = result.steps >= HARD
        points[result.trial.arm].append((result.tokens[hard].mean(), result.correct[hard].mean()))
    return {
        arm: (
            float(sum(tokens for tokens, _ in seeds) / len(seeds)),
            float(sum(accuracy for _, accuracy in seeds) / len(seeds)),
        )
        for arm, seeds in points.items()
    }
