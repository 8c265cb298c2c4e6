"""LIPO's adaptive reward adjustment, Eq. 3 of Tiny-R1V (arXiv 2510.08987).

Among responses whose rewards are closer than a threshold xi, the shorter one's is raised by a
factor that decays towards a length bound L_max [V]:

    h(L) = max(0, 1 - L / L_max)
    S_i  = 1 if some j of the group has L_j > L_i and |R_i - R_j| < xi, else 0
    R'_i = R_i + max(R_i, 0) kappa S_i h(L_i)                                                [I]

Once per response. max(R, 0): the factor would punish short answers of a negative reward [ours]. A
response cut at the budget has no known length, and is never raised [ours].
"""

from typing import Literal

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register

TOLERANCE = 1e-6
"""Rewards that lie the threshold apart, but for rounding, are that far apart. [ours]"""


class LipoSettings(Settings):
    """Settings of LIPO's adjustment."""

    reward_threshold: float = Field(
        0.1, description="xi: rewards closer than this count as equal; <= 0: no boost [V]"
    )
    pairing: Literal["all", "adjacent"] = Field(
        "all", description="compare with every longer response, or the next longer only [I]"
    )
    decay: Literal["linear", "cosine"] = Field(
        "linear", description="how the boost falls to 0 at length_threshold [I]"
    )
    length_threshold: float | None = Field(
        None, gt=0, description="L_max in tokens; null: the longest response of the group [V/I]"
    )
    boost: float = Field(
        0.1,
        ge=0,
        description="kappa; up to xi/(1-xi) an answer worse by xi or more never overtakes [D]",
    )


@register("lipo", settings=LipoSettings, weights=True)
def lipo(responses: Responses, settings: LipoSettings) -> ndarray:
    """(G, n) R' of Eq. 3."""
    R, L = responses.rewards, responses.lengths
    L_max = settings.length_threshold or L.max(1, keepdims=True)
    h = _DECAYS[settings.decay](np.minimum(L / L_max, 1))
    S = _PAIRINGS[settings.pairing](R, L, settings.reward_threshold - TOLERANCE)
    S &= ~responses.truncated
    return R + settings.boost * S * h * np.maximum(R, 0)


def _linear(x: ndarray) -> ndarray:
    return 1 - x


def _cosine(x: ndarray) -> ndarray:
    return 0.5 * (1 + np.cos(np.pi * x))


def _all_pairs(R: ndarray, L: ndarray, threshold: float) -> ndarray:
    """(G, n) bool: some longer response of the group has a reward less than `threshold` away."""
    longer = L[:, None, :] > L[:, :, None]
    close = np.abs(R[:, None, :] - R[:, :, None]) < threshold
    return (longer & close).any(2)


def _adjacent_pairs(R: ndarray, L: ndarray, threshold: float) -> ndarray:
    """As `_all_pairs`, but only the next longer response is looked at (the figure's drawing).

    Equally long responses share their successors: each is compared with all of the next length, so
    that the outcome does not depend on the order of samples. Breaks monotonicity [D].
    """
    longer = L[:, None, :] > L[:, :, None]
    next_length = np.where(longer, L[:, None, :], np.inf).min(2, keepdims=True)
    close = np.abs(R[:, None, :] - R[:, :, None]) < threshold
    return ((L[:, None, :] == next_length) & close).any(2)


_DECAYS = {"linear": _linear, "cosine": _cosine}
_PAIRINGS = {"all": _all_pairs, "adjacent": _adjacent_pairs}
