"""The mathematics of LIPO: rewards and lengths of groups of responses in, advantages out.

Source: Tiny-R1V (arXiv 2510.08987), Eq. 3 and 4. The authors published neither code nor the
equations as text, so every step carries its label: [V] said by a source, [F] measured from the
authors' figures, [I] our reading, [D] derived or checked numerically, [ours] added by us.

1. Adaptive reward adjustment (Eq. 3): R -> R', `lipo_verl.schemes.lipo`. A rival's scheme may
   stand in its place.
2. Dynamic advantage estimation (Eq. 4), in each group of responses with lengths L_i:

       L_opt   = max(2 min L, median L)                                                      [V]
       w_i     = exp(-|L_i - L_opt| / s),   s = L_opt                                     [F, I]
       mu      = sum w_i R'_i / sum w_i
       sigma^2 = sum w_i (R'_i - mu)^2 / (sum w_i - sum w_i^2 / sum w_i)                     [I]
       A_i     = (R'_i - mu) / (sigma + epsilon)                                             [I]

All arrays are `(G, n)`: G groups (prompts) of n responses each, in any order. Everything is
computed in float64. NumPy, because these are a few thousand scalars on the CPU: a call of torch's
costs three to four times one of NumPy's at that size, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from lipo_verl.config import LipoConfig
from lipo_verl.schemes import Responses, State, get_scheme

EPSILON = 1e-6
"""Added to the standard deviation, as GRPO does. [I]"""

_LARGEST_EXPONENT = 600.0
"""exp(-600) is a normal float64, so that a weight is never zero: w in (0, 1]. [D]"""


@dataclass(frozen=True)
class Lipo:
    """What LIPO makes of G groups of n responses; all float64 unless said otherwise.

    Attributes:
        advantages: (G, n) A_i of Eq. 4, after the options of ours.
        unclamped: (G, n) the same before `sign_clamp`.
        shaped: (G, n) R'_i of Eq. 3, or of another scheme.
        boosted: (G, n) bool, the responses that it raised.
        kept: (G, n) bool, the responses that the filter leaves.
        distances: (G, n) -log w_i, from 0 to 1e300.
        optimum: (G, 1) L_opt, tokens.
        gated: (G, 1) bool, the length terms are off for want of correct answers.
    """

    advantages: ndarray
    unclamped: ndarray
    shaped: ndarray
    boosted: ndarray
    kept: ndarray
    distances: ndarray
    optimum: ndarray
    gated: ndarray

    @property
    def weights(self) -> ndarray:
        """(G, n) w_i in (0, 1]; 0 for a response that is not kept."""
        return _weights(self.distances) * self.kept


def lipo(
    batch: Sequence[Responses], config: LipoConfig, state: State | None = None
) -> tuple[list[Lipo], State | None]:
    """Eq. 3 and 4 for a batch.

    Args:
        batch: its groups of two or more responses, those of one size together.
        config: the settings.
        state: what the scheme remembers of the batches before; None: there was none.

    Returns:
        What LIPO makes of each part of the batch, and the scheme's state.

    Raises:
        ValueError: the scheme needs a response budget, and the batch has none.
    """
    scheme = get_scheme(config.scheme)
    memory: tuple[State, ...] = ()
    if scheme.remember is not None:
        memory = (state := scheme.remember(state, batch, config),)

    # 1. Adaptive reward adjustment (Eq. 3), or a rival's; 2. dynamic advantage estimation (Eq. 4)
    shaped = [scheme.function(responses, config, *memory) for responses in batch]
    compared = [_compared(responses, R, config) for responses, R in zip(batch, shaped, strict=True)]
    deviations = _DEVIATIONS[config.normalization](compared)
    results = []
    for responses, part, deviation in zip(batch, compared, deviations, strict=True):
        A = part.centred
        if deviation is not None:
            A = A / (np.maximum(deviation, config.std_floor) + EPSILON)
        results.append(_guarded(responses, part, A, config))
    return results, state


@dataclass(frozen=True)
class _Compared:
    """Shaped rewards under weights; fields as in `Lipo`, and w up to a factor per group."""

    shaped: ndarray
    kept: ndarray
    distances: ndarray
    optimum: ndarray
    gated: ndarray
    w: ndarray
    centred: ndarray


def _compared(responses: Responses, shaped: ndarray, config: LipoConfig) -> _Compared:
    R, L, correct = responses.rewards, responses.lengths, responses.correct
    if config.correct_only:  # a short failure is never paid for [ours]
        shaped = np.where(correct, shaped, np.minimum(shaped, R))

    ordered = np.sort(L, axis=1)
    optimum = np.maximum(2 * ordered[:, :1], _middle(ordered))
    if config.weighted:
        scale = optimum if config.weight_scale is None else config.weight_scale
        distance = np.minimum(np.abs(L - optimum) / scale, 1e300)  # -log w
    else:
        distance = np.zeros(L.shape)

    kept = np.ones(L.shape, bool)
    if config.keep is not None:
        kept = _kept(L if config.keep_by == "length" else -R / L, config.keep)
    gated = np.zeros(optimum.shape, bool)
    if config.min_pass_rate > 0:  # collapse guard: who seldom answers right learns as GRPO [ours]
        gated = responses.pass_rate < config.min_pass_rate
        shaped, distance = np.where(gated, R, shaped), np.where(gated, 0.0, distance)
        kept |= gated

    filtered = config.keep is not None
    among = np.where(kept, distance, np.inf) if filtered else distance
    # only the ratios of weights matter: none underflows
    w = _weights(distance - among.min(1, keepdims=True))
    if filtered:
        w = w * kept
    centred = shaped - (w * shaped).sum(1, keepdims=True) / w.sum(1, keepdims=True)
    if filtered:
        centred = centred * kept
    return _Compared(shaped, kept, distance, optimum, gated, w, centred)


def _guarded(responses: Responses, part: _Compared, A: ndarray, config: LipoConfig) -> Lipo:
    correct = responses.correct
    if config.weight_advantage:  # the reading of one review [I]
        A = A * np.where(correct | (not config.correct_only), _weights(part.distances), 1.0)
    unclamped = A
    if config.sign_clamp:
        A = np.where(sign_flips(correct, A), 0.0, A)  # [ours]
    boosted = part.shaped > responses.rewards
    return Lipo(
        *(A, unclamped, part.shaped, boosted, part.kept, part.distances, part.optimum, part.gated)
    )


def sign_flips(correct: ndarray, A: ndarray) -> ndarray:
    """(G, n) bool, where A is below 0 for a correct answer, or above it for a wrong one, though
    the group has both. [ours]

    Args:
        correct: (G, n) bool.
        A: (G, n) advantages.
    """
    mixed = correct.any(1, keepdims=True) & ~correct.all(1, keepdims=True)
    return mixed & np.where(correct, A < 0, A > 0)


def _kept(key: ndarray, keep: int) -> ndarray:
    """(G, n) bool, the `keep` of each group whose key is least, and who ties with the last."""
    if keep >= key.shape[1]:
        return np.ones(key.shape, bool)
    return key <= np.partition(key, keep - 1)[:, keep - 1 : keep]


def _weights(distance: ndarray) -> ndarray:
    return np.exp(-np.minimum(distance, _LARGEST_EXPONENT))


def _deviation(centred: ndarray, w: ndarray) -> ndarray:
    """(G, 1) the standard deviation under weights w. [I]

    The variance is the reliability-weighted one: for w = 1 it is the n-1 form. Its denominator,
    sum w - (sum w^2) / sum w, is written as a sum over pairs i < j, so that nothing cancels.
    """
    below = w.cumsum(1)
    pairs = (w[:, 1:] * below[:, :-1]).sum(1, keepdims=True)
    return np.sqrt((w * centred * centred).sum(1, keepdims=True) * below[:, -1:] / (2 * pairs))


def _of_groups(parts: Sequence[_Compared]) -> list[ndarray | None]:
    return [_deviation(part.centred, part.w) for part in parts]


def _of_batch(parts: Sequence[_Compared]) -> list[ndarray | None]:
    """One deviation of all responses, each from its group's mean, over n-1 of them. [I]"""
    centred, w = (
        np.concatenate([array.ravel() for array in arrays])[None]
        for arrays in ([part.centred for part in parts], [part.w for part in parts])
    )
    return [_deviation(centred, w)] * len(parts)


def _of_nothing(parts: Sequence[_Compared]) -> list[ndarray | None]:
    return [None] * len(parts)


def _middle(ordered: ndarray) -> ndarray:
    """(G, 1) the median of sorted rows: the mean of the middle two for even n."""
    n = ordered.shape[1]
    return (ordered[:, (n - 1) // 2, None] + ordered[:, n // 2, None]) / 2


_DEVIATIONS = {"group": _of_groups, "batch": _of_batch, "none": _of_nothing}
