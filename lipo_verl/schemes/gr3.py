"""GR3, group relative reward rescaling, as in prime-rl [C].

    R'_i = R_i / (1 + alpha L_i / mean L)

A reward below 0 is left alone: the factor would raise it for its length [ours]. prime-rl takes the
group's mean off and divides by nothing: `normalization: none`.
"""

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register


class Gr3Settings(Settings):
    """Settings of GR3."""

    alpha: float = Field(0.33, ge=0, description="alpha; 0.33: where prime-rl says to start [C]")


@register("gr3", settings=Gr3Settings)
def gr3(responses: Responses, settings: Gr3Settings) -> ndarray:
    """(G, n) R'."""
    R, L = responses.rewards, responses.lengths
    return np.where(R > 0, R / (1 + settings.alpha * L / L.mean(1, keepdims=True)), R)
