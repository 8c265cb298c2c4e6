"""WUDI-Merging (arXiv 2503.08099): minimise the interference of the merged task vector.

    minimise   Σ_i ‖(τ − τ_i) τ_iᵀ‖²_F / ‖τ_i‖²_F   from  τ = Σ_i τ_i,  Adam, 300 steps    [V]

for each 2-D weight of a linear layer by itself.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from amm.methods.descent import (
    PUBLISHED_EPS,
    PUBLISHED_LR,
    PUBLISHED_RMS,
    DescentSettings,
    Interference,
    common_rms,
    descend,
    frobenius_norms,
    memory,
    squarable,
)
from amm.methods.linear import register_linear


class WudiSettings(DescentSettings):
    """Settings of WUDI.

    Attributes:
        normalize: work in units of the layer's common RMS [D]. Off: in units of the weights, as
            published, where the result depends on how large the deltas are.
        lr: Adam's step. Default: 0.01 of the layer's RMS with `normalize`, else the published
            1e-5 [V]; the two are the same at RMS 1e-3. Adam's ε goes with it: 1e-5, else 1e-8.
    """

    normalize: bool = True
    lr: float | None = Field(None, gt=0)


@register_linear("wudi", settings=WudiSettings, memory=memory)
def wudi(vectors: Tensor, settings: WudiSettings) -> Tensor:
    """K × out × in → out × in: Adam on the interference loss, from the sum."""
    rms = common_rms(vectors)
    vectors = squarable(vectors, rms)
    unit, published_unit = (rms, PUBLISHED_RMS) if settings.normalize else (1.0, 1.0)

    layer = Interference(vectors)
    weights = frobenius_norms(vectors).pow(-2).to(vectors.dtype)
    travelled = descend(
        layer.start,
        lambda tau, evaluations: layer.gradient(weights),
        steps=settings.steps,
        lr=unit * (settings.lr or PUBLISHED_LR / published_unit),
        eps=unit * PUBLISHED_EPS / published_unit,
        stride=settings.stride,
        refresh=settings.steps,
        precision=settings.precision,
    )
    return layer.start + travelled
