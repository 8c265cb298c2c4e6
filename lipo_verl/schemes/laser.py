"""LASER (arXiv 2505.15612): a step at a target length [C].

right and L_i <= L_T:  R'_i = R_i + bonus
else:                  R'_i = R_i
"""

from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register


class LaserSettings(Settings):
    """Settings of LASER."""

    target_length: float = Field(gt=0, description="L_T in tokens; has no default [C]")
    bonus: float = Field(0.5, ge=0, description="of right answers up to target_length [C]")


@register("laser", settings=LaserSettings)
def laser(responses: Responses, settings: LaserSettings) -> ndarray:
    """(G, n) R'."""
    short = responses.correct & (responses.lengths <= settings.target_length)
    return responses.rewards + settings.bonus * short
