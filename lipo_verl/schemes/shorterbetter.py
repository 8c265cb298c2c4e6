"""ShorterBetter (arXiv 2504.21370): right, and as long as the shortest right answer [C].

    R'_i = alpha c_i - beta |L_i - L*|

L* is the length of the group's shortest right answer, and the mean length where none is right. The
rule's reward counts only through c_i, whether the answer is right.
"""

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register


class ShorterBetterSettings(Settings):
    """Settings of ShorterBetter."""

    alpha: float = Field(2.0, gt=0, description="reward of a right answer [C]")
    beta: float = Field(0.001, ge=0, description="taken off per token away from L* [C]")


@register("shorterbetter", settings=ShorterBetterSettings)
def shorterbetter(responses: Responses, settings: ShorterBetterSettings) -> ndarray:
    """(G, n) R'."""
    right, L = responses.correct, responses.lengths
    shortest_right = np.where(right, L, np.inf).min(1, keepdims=True)
    best = np.where(right.any(1, keepdims=True), shortest_right, L.mean(1, keepdims=True))
    return settings.alpha * right - settings.beta * np.abs(L - best)
