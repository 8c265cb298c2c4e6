"""How active the inputs of a model's linear layers are: what AIM needs (arXiv 2502.02421)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def mean_magnitudes(model: nn.Module, inputs: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """s_j = mean |x_j| over all positions that reach a linear layer, of each of them [C].

    Args:
        model: any module; its `torch.nn.Linear` are measured.
        inputs: what its calls get, as keywords; without padding.

    Returns:
        Name of the layer's weight → s, in, float32. Layers that no input reached aren't there.
    """
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def measure(name: str, entering: Tensor) -> None:
        rows = entering.detach().reshape(-1, entering.shape[-1]).abs().double()
        sums[name] = sums.get(name, 0) + rows.sum(dim=0)
        counts[name] += len(rows)

    hooks = [
        module.register_forward_pre_hook(lambda _, given, n=f"{name}.weight": measure(n, given[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for each in inputs:
            model(**each)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / counts[name]).float().cpu() for name, total in sums.items()}
