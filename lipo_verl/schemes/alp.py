"""ALP, the adaptive length penalty (arXiv 2506.05256): a token costs more where the prompt is easy.

    R'_i = R_i - beta L_i max(p, 1/n)                                                        [3]

p is the group's pass rate, n its size.
"""

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register


class AlpSettings(Settings):
    """Settings of ALP."""

    beta: float = Field(
        1e-7, ge=0, description="cost of a token; 1e-7 at lengths of thousands of tokens [3]"
    )


@register("alp", settings=AlpSettings)
def alp(responses: Responses, settings: AlpSettings) -> ndarray:
    """(G, n) R'."""
    solved = np.maximum(responses.pass_rate, 1 / responses.rewards.shape[1])
    return responses.rewards - settings.beta * responses.lengths * solved
