"""The length reward of Kimi k1.5 (arXiv 2501.12599, section 2.3.3) [C].

    lambda_i = 1/2 - (L_i - L_min) / (L_max - L_min),   0 where all lengths of the group are equal
    right:  R'_i = R_i + w lambda_i
    wrong:  R'_i = R_i + w min(0, lambda_i)

L_min and L_max are the group's. So a short wrong answer gains nothing, a long one loses.
"""

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register


class KimiSettings(Settings):
    """Settings of Kimi's length reward."""

    weight: float = Field(0.4, ge=0, description="w, of the length reward; 0.4: LASER's code [C]")


@register("kimi", settings=KimiSettings)
def kimi(responses: Responses, settings: KimiSettings) -> ndarray:
    """(G, n) R'."""
    L, shortest = responses.lengths, responses.lengths.min(1, keepdims=True)
    spread = L.max(1, keepdims=True) - shortest
    length = (0.5 - (L - shortest) / np.maximum(spread, 1)) * (spread > 0)
    length = np.where(responses.correct, length, np.minimum(length, 0))
    return responses.rewards + settings.weight * length
