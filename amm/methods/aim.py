"""AIM (arXiv 2502.02421): hold a finished merge back where the base is most active.

    s_j = mean |x_j|    of a linear layer's inputs, over calibration tokens, in the base      [C]
    ŝ = s / max s,      Δ'_{:,j} = Δ_{:,j} · (1 − ŝ_j (1 − ω))                                [C]
    W = W_0 + scale · Δ'

Δ is what the merge added to the base: the merge is the only expert. `amm calibrate activations`
finds the s_j. Tensors for which there are none stay as in the merge.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from amm.errors import InputError
from amm.methods.linear import LinearSettings
from amm.methods.registry import Place, register


class AimSettings(LinearSettings):
    """Settings of AIM.

    Attributes:
        activations: the file that `amm calibrate activations` wrote, of the base.
        omega: ω, what is left of the step where the base is most active; 1 leaves the merge as it
            is. The paper: 0.4, and 0.2 to 0.6 are sensible [C].
    """

    activations: Path
    omega: float = Field(0.4, ge=0, le=1)


@register("aim", settings=AimSettings, tensors="linear", place=True, table="activations")
def aim(task_vectors: Tensor, settings: AimSettings, place: Place) -> Tensor:
    """AIM: shorten a merge's step in the columns whose inputs are large in the base.

    Args:
        task_vectors: 1 × out × in, Δ, float32 or float64.
        settings: see `AimSettings`.
        place: its `table` has the s_j, in.

    Returns:
        scale · Δ', out × in.

    Raises:
        InputError: more than one expert.
    """
    (step,) = only_one(task_vectors, "aim", "a finished merge")
    table = place.table
    assert table is not None  # as the method is registered with one
    activity = table / table.max().clamp_min(torch.finfo(table.dtype).tiny)
    return settings.scale * step * (1 - activity * (1 - settings.omega))


def only_one(task_vectors: Tensor, method: str, what: str) -> Tensor:
    """The same task vectors.

    Raises:
        InputError: there are several.
    """
    if len(task_vectors) == 1:
        return task_vectors
    raise InputError(
        f"{method} starts from {what} and has {len(task_vectors)} experts here; give one."
    )
