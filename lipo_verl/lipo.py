"""The mathematics of LIPO: rewards and lengths of one group in, advantages out.

Source: Tiny-R1V (arXiv 2510.08987), Eq. 3 and 4. The authors published neither code nor the
equations as text, so every step carries its label: [V] said by a source, [F] measured from the
authors' figures, [I] our reading, [D] derived or checked numerically, [ours] added by us.

All arrays are ``(G, n)``: G groups (prompts) of n responses each. Group members may stand in any
order. Everything is computed in float64. NumPy, because these are a few thousand scalars on the
CPU: a call of torch's costs three to four times one of NumPy's at that size, and nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

EPSILON = 1e-6
"""Added to the standard deviation, as GRPO does. [I]"""

TOLERANCE = 1e-6
"""Rewards that lie the threshold apart, but for rounding, are that far apart. [ours]"""

_LARGEST_EXPONENT = 600.0
"""exp(-600) is a normal float64, so that a weight is never zero: w in (0, 1]. [D]"""


@dataclass(frozen=True)
class Lipo:
    """What LIPO makes of G groups of n responses; all float64 unless said otherwise.

    advantages: (G, n)  A_i of Eq. 4, after the options of ours
    unclamped:  (G, n)  the same before ``sign_clamp``
    adjusted:   (G, n)  R'_i of Eq. 3
    boosted:    (G, n)  bool, S_i: some longer peer has about the same reward; after the guards
    distances:  (G, n)  -log w_i, from 0 to 1e300
    optimum:    (G, 1)  L_opt, tokens
    gated:      (G, 1)  bool, the length terms are off for want of correct answers
    """

    advantages: ndarray
    unclamped: ndarray
    adjusted: ndarray
    boosted: ndarray
    distances: ndarray
    optimum: ndarray
    gated: ndarray

    @property
    def weights(self) -> ndarray:
        """(G, n) w_i in (0, 1]."""
        return _weights(self.distances)


def lipo(
    rewards: ndarray,
    lengths: ndarray,
    truncated: ndarray | None = None,
    correct: ndarray | None = None,
    *,
    reward_threshold: float = 0.1,
    pairing: str = "all",
    decay: str = "linear",
    length_threshold: float | None = None,
    boost: float = 0.1,
    weight_scale: float | None = None,
    weight_advantage: bool = False,
    std_floor: float = 0.0,
    correct_only: bool = True,
    correct_score: float = 0.5,
    min_pass_rate: float = 0.0,
    sign_clamp: bool = False,
) -> Lipo:
    """Eq. 3 and 4 for G groups of n >= 2 responses.

    rewards:   (G, n), any float type, the rule's score of each response
    lengths:   (G, n), any type, tokens the policy generated; at least 1
    truncated: (G, n) bool, responses cut at the budget: their length is unknown, so they are never
               boosted [ours]; None: none is
    correct:   (G, n) bool, the right answers; None: those with rewards from ``correct_score`` on

    The settings are those of :class:`lipo_verl.config.LipoConfig`.
    """
    R, L = np.asarray(rewards, np.float64), np.asarray(lengths, np.float64)
    ordered = np.sort(L, axis=1)
    shortest, longest = ordered[:, :1], ordered[:, -1:]
    if correct is None:
        correct = R >= correct_score

    # 1. Adaptive reward adjustment (Eq. 3). The factor [V], its form [I]: h falls from 1 to 0 at
    # L_max; S_i asks whether a longer answer exists whose reward is about the same.
    L_max = longest if length_threshold is None else length_threshold
    h = _DECAYS[decay](np.minimum(L / L_max, 1))
    S = _PAIRINGS[pairing](R, L, reward_threshold - TOLERANCE)
    if truncated is not None:
        S = S & ~truncated
    if correct_only:  # a short failure is never paid for [ours]
        S = S & correct

    # 2. Dynamic advantage estimation (Eq. 4): the distance to the optimum length weighs the group.
    optimum = np.maximum(2 * shortest, _middle(ordered))  # [V]
    scale = optimum if weight_scale is None else weight_scale  # [I]
    distance = np.minimum(np.abs(L - optimum) / scale, 1e300)  # -log w: cusp, zero baseline [F]

    gated = np.zeros(optimum.shape, bool)
    if min_pass_rate > 0:  # collapse guard: groups that seldom answer right learn as GRPO [ours]
        gated = correct.mean(1, keepdims=True) < min_pass_rate
        S, distance = S & ~gated, np.where(gated, 0.0, distance)

    adjusted = R + boost * S * h * np.maximum(R, 0)  # max(R, 0): a negative reward stays [ours]
    nearest = distance.min(1, keepdims=True)
    w = _weights(distance - nearest)  # only their ratios matter: none of a group underflows
    A = unclamped = _normalised(adjusted, w, std_floor)
    if weight_advantage:
        of_advantage = _weights(distance)  # the reading of one review [I]
        A = unclamped = A * np.where(correct | (not correct_only), of_advantage, 1.0)
    if sign_clamp:
        A = np.where(sign_flips(correct, A), 0.0, A)  # [ours]
    return Lipo(A, unclamped, adjusted, S, distance, optimum, gated)


def sign_flips(correct: ndarray, A: ndarray) -> ndarray:
    """(G, n) bool, where A is below 0 for a correct answer, or above it for a wrong one, though
    the group has both. [ours]

    correct: (G, n) bool;  A: (G, n) advantages
    """
    mixed = correct.any(1, keepdims=True) & ~correct.all(1, keepdims=True)
    return mixed & np.where(correct, A < 0, A > 0)


def _weights(distance: ndarray) -> ndarray:
    return np.exp(-np.minimum(distance, _LARGEST_EXPONENT))


def _normalised(R: ndarray, w: ndarray, std_floor: float) -> ndarray:
    """(G, n) (R - mu) / (sigma + eps) under weights w. [I]

    The variance is the reliability-weighted one: for w = 1 it is the n-1 form. Its denominator,
    sum w - (sum w^2) / sum w, is written as a sum over pairs i < j, so that nothing cancels.
    """
    below = w.cumsum(1)
    total = below[:, -1:]
    pairs = (w[:, 1:] * below[:, :-1]).sum(1, keepdims=True)
    centred = R - (w * R).sum(1, keepdims=True) / total
    variance = (w * centred * centred).sum(1, keepdims=True) * total / (2 * pairs)
    return centred / (np.maximum(np.sqrt(variance), std_floor) + EPSILON)


def _linear(x: ndarray) -> ndarray:
    return 1 - x


def _cosine(x: ndarray) -> ndarray:
    return 0.5 * (1 + np.cos(np.pi * x))


def _all_pairs(R: ndarray, L: ndarray, threshold: float) -> ndarray:
    """(G, n) bool: some longer response of the group has a reward less than ``threshold`` away."""
    longer = L[:, None, :] > L[:, :, None]
    close = np.abs(R[:, None, :] - R[:, :, None]) < threshold
    return (longer & close).any(2)


def _adjacent_pairs(R: ndarray, L: ndarray, threshold: float) -> ndarray:
    """As :func:`_all_pairs`, but only the next longer response is looked at (the figure's drawing).

    Equally long responses share their successors: each is compared with all of the next length, so
    that the outcome does not depend on the order of samples. Breaks monotonicity [D].
    """
    longer = L[:, None, :] > L[:, :, None]
    next_length = np.where(longer, L[:, None, :], np.inf).min(2, keepdims=True)
    close = np.abs(R[:, None, :] - R[:, :, None]) < threshold
    return ((L[:, None, :] == next_length) & close).any(2)


def _middle(ordered: ndarray) -> ndarray:
    """(G, 1) the median of sorted rows: the mean of the middle two for even n."""
    n = ordered.shape[1]
    return (ordered[:, (n - 1) // 2, None] + ordered[:, n // 2, None]) / 2


_DECAYS = {"linear": _linear, "cosine": _cosine}
_PAIRINGS = {"all": _all_pairs, "adjacent": _adjacent_pairs}
