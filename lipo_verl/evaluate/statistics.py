"""Intervals over questions, and paired differences of two models on the same ones.

Accuracy of answers that are right or wrong: Wilson's interval [1], which holds near 0 and 1 too.
Everything else: the percentile bootstrap over questions [2], with a fixed seed, so that the same
answers give the same interval. Differences are paired: a resample takes the same questions for both
models, and what is hard for both cancels.

[1] Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
[2] Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy import ndarray

LEVEL = 0.95
RESAMPLES = 2000
CORRECT = 0.5
"""An answer counts as correct from this score on, as in LIPO's metrics."""

_AT_ONCE = 4_000_000
"""Entries of resamples that are held at one time."""


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % interval; `inf` where nothing bounds it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scored:
    """The answers to N questions.

    Attributes:
        accuracy: (N,) the reward's accuracy, in [0, 1].
        tokens: (N,) tokens that the model wrote, its end-of-turn token included.
        truncated: (N,) bool, cut at the budget.
    """

    accuracy: ndarray
    tokens: ndarray
    truncated: ndarray

    @property
    def correct(self) -> ndarray:
        """(N,) bool, from CORRECT on."""
        return self.accuracy >= CORRECT


def accuracy(scored: Scored) -> Estimate:
    """Mean accuracy."""
    scores = scored.accuracy
    if np.isin(scores, (0.0, 1.0)).all():
        return Estimate(float(scores.mean()), *wilson(int(scores.sum()), len(scores)))
    return bootstrap(_mean, scores)


def mean_tokens(scored: Scored) -> Estimate:
    """Mean tokens of an answer."""
    return bootstrap(_mean, scored.tokens)


def tokens_per_correct(scored: Scored) -> Estimate:
    """All tokens over the number of correct answers; infinite where none is."""
    return bootstrap(_ratio, scored.tokens, scored.correct)


def accuracy_difference(one: Scored, other: Scored) -> Estimate:
    """Mean accuracy of `other` minus that of `one`, on the same questions."""
    return bootstrap(_mean, other.accuracy - one.accuracy)


def token_ratio(one: Scored, other: Scored) -> Estimate:
    """Mean tokens of `other` over those of `one`, on the same questions."""
    return bootstrap(_ratio, other.tokens, one.tokens)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The ends of Wilson's 95 % interval for a share."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, shrink = successes / trials, 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(statistic: Callable[..., ndarray], *columns: ndarray) -> Estimate:
    """The percentile bootstrap of a statistic of N questions.

    Args:
        statistic: (…, N) arrays, one for each column → (…).
        columns: (N,) each; a resample takes the same questions of all.
    """
    n = len(columns[0])
    rng = np.random.default_rng(0)
    values: list[ndarray] = []
    left = RESAMPLES
    while left:
        rows = min(left, max(1, _AT_ONCE // n))
        chosen = rng.integers(0, n, (rows, n))
        values.append(statistic(*(column[chosen] for column in columns)))
        left -= rows
    ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    # No interpolation: between a number and infinity there is nothing.
    low, high = np.quantile(np.concatenate(values), ends, method="inverted_cdf")
    return Estimate(float(statistic(*columns)), float(low), float(high))


def _mean(values: ndarray) -> ndarray:
    return values.mean(-1)


def _ratio(numerator: ndarray, denominator: ndarray) -> ndarray:
    total = np.asarray(denominator.sum(-1), dtype=float)
    with np.errstate(divide="ignore"):
        return numerator.sum(-1) / total
