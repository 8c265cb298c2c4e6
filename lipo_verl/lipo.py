"""The mathematics of LIPO: rewards and lengths of one group in, advantages out.

Source: Tiny-R1V (arXiv 2510.08987), Eq. 3 and 4. The authors published neither code nor the
equations as text, so every step carries its label: [V] said by a source, [F] measured from the
authors' figures, [I] our reading, [D] derived or checked numerically, [ours] added by us.

All tensors are ``(G, n)``: G groups (prompts) of n responses each. Group members may stand in any
order. Everything is computed in float64; the tensors are a few thousand scalars.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to the standard deviation, as GRPO does. [I]"""

_LARGEST_EXPONENT = 600.0
"""exp(-600) is still a normal float64, so that a weight is never zero: w in (0, 1]. [D]"""


@dataclass(frozen=True)
class Lipo:
    """What LIPO makes of G groups of n responses; all float64 unless said otherwise.

    advantages: (G, n)  A_i of Eq. 4
    adjusted:   (G, n)  R'_i of Eq. 3
    boosted:    (G, n)  bool, S_i: some longer peer has about the same reward
    weights:    (G, n)  w_i in (0, 1]
    optimum:    (G, 1)  L_opt, tokens
    """

    advantages: Tensor
    adjusted: Tensor
    boosted: Tensor
    weights: Tensor
    optimum: Tensor


def lipo(
    rewards: Tensor,
    lengths: Tensor,
    *,
    reward_threshold: float = 0.1,
    pairing: str = "all",
    decay: str = "linear",
    length_threshold: float | None = None,
    boost: float = 0.1,
    weight_scale: float | None = None,
    weight_advantage: bool = False,
    std_floor: float = 0.0,
) -> Lipo:
    """Eq. 3 and 4 for G groups of n >= 2 responses.

    rewards: (G, n), any float type, the rule's score of each response
    lengths: (G, n), any type, tokens the policy generated; at least 1

    The settings are those of :class:`lipo_verl.config.LipoConfig`.
    """
    R, L = rewards.double(), lengths.double()

    # 1. Adaptive reward adjustment (Eq. 3). The factor [V], its form [I]: h falls from 1 to 0 at
    # L_max; S_i asks whether a longer answer exists whose reward is about the same.
    L_max = L.amax(1, keepdim=True) if length_threshold is None else length_threshold
    h = _DECAYS[decay]((L / L_max).clamp(max=1))
    S = _PAIRINGS[pairing](R, L, reward_threshold)
    adjusted = R + R.clamp(min=0) * (
        boost * (S * h)
    )  # max(R, 0): see docs, negative rewards [ours]

    # 2. Dynamic advantage estimation (Eq. 4): the distance to the optimum length weighs the group.
    optimum = torch.maximum(2 * L.amin(1, keepdim=True), _median(L))  # [V]
    scale = optimum if weight_scale is None else weight_scale  # [I]
    w = torch.exp(-((L - optimum).abs() / scale).clamp(max=_LARGEST_EXPONENT))  # cusp, base 0 [F]

    # [I] weighted mean, and the reliability-weighted variance: for w = 1 it is the n-1 form. Only
    # ratios of weights matter, and the denominator (sum v) - (sum v^2) / (sum v) is written over
    # pairs i < j: so neither underflow nor cancellation makes it 0.
    v = w / w.amax(1, keepdim=True)
    total = v.sum(1, keepdim=True)
    mean = (v * adjusted).sum(1, keepdim=True) / total
    pairs = (v.unsqueeze(2) * v.unsqueeze(1)).triu(1).sum((1, 2)).unsqueeze(1)
    variance = (v * (adjusted - mean).square()).sum(1, keepdim=True) / (2 * pairs / total)
    A = (adjusted - mean) / (variance.sqrt().clamp(min=std_floor) + EPSILON)
    if weight_advantage:
        A = A * w  # the reading of one review [I]
    return Lipo(A, adjusted, S, w, optimum)


def _linear(x: Tensor) -> Tensor:
    return 1 - x


def _cosine(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.cos(torch.pi * x))


def _all_pairs(R: Tensor, L: Tensor, threshold: float) -> Tensor:
    """(G, n) bool: some longer response of the group has a reward less than ``threshold`` away."""
    longer = L.unsqueeze(1) > L.unsqueeze(2)
    close = (R.unsqueeze(1) - R.unsqueeze(2)).abs() < threshold
    return (longer & close).any(2)


def _adjacent_pairs(R: Tensor, L: Tensor, threshold: float) -> Tensor:
    """As :func:`_all_pairs`, but only the next longer response is looked at (the figure's drawing).

    Equally long responses share their successors: each is compared with all of the next length, so
    that the outcome does not depend on the order of samples. Breaks monotonicity [D].
    """
    longer = L.unsqueeze(1) > L.unsqueeze(2)
    next_length = torch.where(longer, L.unsqueeze(1), torch.inf).amin(2, keepdim=True)
    close = (R.unsqueeze(1) - R.unsqueeze(2)).abs() < threshold
    return ((L.unsqueeze(1) == next_length) & close).any(2)


def _median(L: Tensor) -> Tensor:
    """(G, 1) the median, the mean of the middle two for even n (torch.median takes the lower)."""
    ordered = L.sort(dim=1).values
    n = L.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]).unsqueeze(1) / 2


_DECAYS = {"linear": _linear, "cosine": _cosine}
_PAIRINGS = {"all": _all_pairs, "adjacent": _adjacent_pairs}
