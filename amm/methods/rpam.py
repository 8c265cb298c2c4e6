"""RPAM (arXiv 2601.03506): go from a long-reasoning model towards a short-answering one, by layer.

    θ = θ_L + α ⊙ (θ_S − θ_L)                                                                [C]

The base is the long model θ_L, the short one θ_S the only expert. `amm calibrate rpam` finds the α:
one for each tensor, for each layer, or for each entry.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from amm.methods.aim import only_one
from amm.methods.registry import Place, register
from amm.settings import Settings


class RpamSettings(Settings):
    """Settings of RPAM.

    Attributes:
        coefficients: the file that `amm calibrate rpam` wrote.
    """

    coefficients: Path


@register(
    "rpam",
    settings=RpamSettings,
    tensors="all",
    elementwise=True,
    place=True,
    table="coefficients",
)
def rpam(task_vectors: Tensor, settings: RpamSettings, place: Place) -> Tensor:
    """RPAM: a share of the way from the long model to the short one.

    Args:
        task_vectors: 1 × the block's shape, θ_S − θ_L, float32 or float64.
        settings: see `RpamSettings`.
        place: its `table` has the α, one or the block's shape.

    Returns:
        α ⊙ (θ_S − θ_L), the block's shape.

    Raises:
        InputError: more than one expert.
    """
    (step,) = only_one(task_vectors, "rpam", "the long model as base, with the short one,")
    return place.table * step
