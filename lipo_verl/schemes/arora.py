"""Arora and Zanette, "Training language models to reason efficiently" (arXiv 2502.04463) [C].

    right:  R'_i = R_i (1 - alpha sigmoid((L_i - mu_c) / (s_c + 1e-7)))
    wrong:  R'_i = R_i

mu_c and s_c are mean and standard deviation (of the population) of the group's right answers'
lengths. A reward below 0 is left alone: the factor would raise it [ours]. Their code gives a
response without an end-of-sequence token 0 as well, which `truncation` does here [C].
"""

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register


class AroraSettings(Settings):
    """Settings of Arora and Zanette's factor."""

    alpha: float = Field(
        0.1, ge=0, lt=1, description="alpha, from 0 to 1; 0.1: the authors' script [C]"
    )


@register("arora", settings=AroraSettings)
def arora(responses: Responses, settings: AroraSettings) -> ndarray:
    """(G, n) R'."""
    R, right = responses.rewards, responses.correct
    count = np.maximum(right.sum(1, keepdims=True), 1)
    mean = (responses.lengths * right).sum(1, keepdims=True) / count
    centred = (responses.lengths - mean) * right
    deviation = np.sqrt((centred * centred).sum(1, keepdims=True) / count)
    sigmoid = 1 / (1 + np.exp(-centred / (deviation + 1e-7)))
    return R - settings.alpha * sigmoid * right * np.maximum(R, 0)
