"""DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13), an option of verl's rewards [C].

    R'_i = R_i - factor min(1, max(0, L_i - (L_max - buffer)) / buffer)

L_max is the response budget. Here the rule's score stays apart from the penalty, in the metrics and
for what is correct.
"""

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, register


class OverlongSettings(Settings):
    """Settings of the overlong penalty."""

    buffer: float | None = Field(
        None,
        gt=0,
        description="tokens before the budget over which the penalty grows; null: a fifth of the "
        "budget, as 4096 of DAPO's 20480 [C]",
    )
    factor: float = Field(1.0, ge=0, description="largest penalty [C]")


@register("overlong", settings=OverlongSettings, right_groups=False)
def overlong(responses: Responses, settings: OverlongSettings) -> ndarray:
    """(G, n) R'.

    Raises:
        ValueError: the budget is not known.
    """
    if responses.budget is None:
        raise ValueError("the scheme overlong needs response_budget, the tokens of a response.")
    buffer = settings.buffer or responses.budget / 5
    beyond = (responses.lengths - (responses.budget - buffer)) / buffer
    return responses.rewards - settings.factor * np.clip(beyond, 0, 1)
