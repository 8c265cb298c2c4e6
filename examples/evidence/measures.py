"""The study's figures: differences from a baseline over seeds and questions, and the frontier.

Shapes: S training seeds, Q questions, the same ones for all seeds and arms.
"""

from __future__ import annotations

from collections.abc import Mapping

from numpy import ndarray
from scipy.stats import t

from lipo_verl.evaluate.statistics import LEVEL, Estimate


def mean_over(values: ndarray) -> Estimate:
    """Mean of (S, Q) figures, with an interval over both seeds and questions.

    The variances of the seeds' means and of the questions' means are added, which counts what is
    left between them twice, and the quantile is Student's of S - 1 degrees of freedom: rather too
    wide than too narrow. One seed has no interval: its ends are infinite.
    """
    return _around(values.mean(), values)


def _around(value: float, spread: ndarray) -> Estimate:
    """A figure with the interval of the mean of (S, Q) figures that vary as it does."""
    seeds, questions = spread.shape
    half = float("inf")
    if seeds > 1:
        variance = spread.mean(1).var(ddof=1) / seeds
        if questions > 1:
            variance += spread.mean(0).var(ddof=1) / questions
        half = t.ppf((1 + LEVEL) / 2, seeds - 1) * variance**0.5
    return Estimate(float(value), float(value - half), float(value + half))


def over_seeds(values: ndarray) -> Estimate:
    """Mean of (S,) figures, each of a seed with questions of its own, with Student's interval."""
    return mean_over(values[:, None])


def difference(values: ndarray, baseline: ndarray) -> Estimate:
    """Mean of (S, Q) minus that of a baseline, paired by seed and question."""
    return mean_over(values - baseline)


def ratio(values: ndarray, baseline: ndarray) -> Estimate:
    """Mean of (S, Q) over that of a baseline, linearised at the means (the delta method)."""
    share = values.mean() / baseline.mean()
    return _around(share, (values - share * baseline) / baseline.mean())


def on_frontier(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """The names of (tokens, accuracy) that no other has fewer tokens and more accuracy than."""
    return {
        name
        for name, (tokens, accuracy) in points.items()
        if not any(
            t <= tokens and a >= accuracy and (t, a) != (tokens, accuracy)
            for t, a in points.values()
        )
    }
