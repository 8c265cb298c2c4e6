"""What the experts' task vectors are like: how large, how alike, how sparse, of what rank."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm.checkpoints import Checkpoint
from amm.checkpoints.keys import MERGEABLE, matrices_of
from amm.config import MergeConfig
from amm.engines.job import Job
from amm.methods.descent import full_precision
from amm.models import open_models
from amm.plots import draw_task_vectors, short_paths
from amm.settings import validated
from amm.survey import Products, Surveyed, kind_of, survey, total

POWER_STEPS = 24
"""Power iterations for the largest singular value: its error is well below 1 % in practice."""


@dataclass(frozen=True)
class Rank:
    """How many directions a matrix takes, from its singular values σ; both are at most its rank.

    Attributes:
        stable: Σσ² / max σ².
        effective: (Σσ²)² / Σσ⁴, the participation ratio of the σ².
    """

    stable: float
    effective: float


@dataclass(frozen=True)
class Figures:
    """Figures of one tensor, or of all of one kind; lists have an entry for each expert.

    Attributes:
        name: the tensor, or the kind with `*` for layer numbers.
        count: number of tensors.
        norms: ‖τ_i‖ / ‖W_0‖; None where the base is zero and the expert isn't.
        unchanged: share of entries that equal the base's.
        unchanged_bf16: share of those that do after both are rounded to bfloat16.
        cosines: cos(τ_i, τ_j), K × K.
        ranks: of linear layers: of each τ_i, averaged over the tensors where it isn't zero; None
            where all are.
        rules: what a merge does with them, where that was asked for.
    """

    name: str
    count: int
    norms: list[float | None]
    unchanged: list[float]
    unchanged_bf16: list[float]
    cosines: list[list[float]]
    ranks: list[Rank | None] | None
    rules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        experts: short names of the experts.
        whole: all tensors together.
        kinds: one for each kind of tensor.
        layers: one for each tensor.
        linear_cosines: cos(τ_i, τ_j) over all linear layers, K × K.
    """

    experts: list[str]
    whole: Figures
    kinds: list[Figures]
    layers: list[Figures]
    linear_cosines: list[list[float]]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def picture(self) -> bytes:
        """Heat-maps of where each expert moved, and of the cosines between experts.

        Returns:
            A PNG file.

        Raises:
            ImportError: matplotlib isn't installed.
        """
        norms = {
            layer.name: [math.nan if norm is None else norm for norm in layer.norms]
            for layer in self.layers
            if layer.ranks is not None
        }
        return draw_task_vectors(norms, self.linear_cosines, self.experts)


def inspect(
    base: str | Path,
    experts: Sequence[str | Path | Mapping[str, Any]],
    *,
    partial_experts: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Inspection:
    """Measure the experts' task vectors; reads all weights once, a tensor at a time.

    Args:
        base: the model that the experts were trained from.
        experts: K experts, in any of the forms that can be merged.
        partial_experts: experts may lack tensors, which count as unchanged.
        progress: called after each tensor with its name and the share of the tensors that is done.

    Raises:
        InputError: an input can't be read, or an expert doesn't fit the base.
    """
    values = {"base": base, "experts": experts, "partial_experts": partial_experts, "output": "."}
    return inspect_config(validated(MergeConfig, values, "inspect"), progress)


def inspect_config(
    config: MergeConfig,
    progress: Callable[[str, float], None] | None = None,
    *,
    rules: bool = False,
) -> Inspection:
    """Measure the experts of a validated merge, and say what it does with each; see `inspect`."""
    models = open_models(config)
    job = Job(config, models) if rules else None
    origin, opened, names = models.base, models.experts, models.matching.check().names
    count = sum(origin.dtype(key) in MERGEABLE for key in names[0])
    surveyed: list[Surveyed] = []
    ranks: dict[str, list[Rank | None]] = {}
    for tensor in survey(origin, opened, names, deep=True):
        surveyed.append(tensor)
        if tensor.linear:
            ranks[tensor.name] = [
                None
                if (key := own[tensor.name]) is None
                else _mean_rank(origin, tensor, expert, key)
                for expert, own in zip(opened, names, strict=True)
            ]
        if progress is not None:
            progress(tensor.name, len(surveyed) / count)
    kinds: dict[str, list[Surveyed]] = defaultdict(list)
    for tensor in surveyed:
        kinds[kind_of(tensor.name)].append(tensor)
    linear = [tensor.products for tensor in surveyed if tensor.linear]

    def figures(name: str, tensors: Sequence[Surveyed]) -> Figures:
        found = _figures(name, [t.products for t in tensors], [ranks.get(t.name) for t in tensors])
        names = [job.rule(tensor.name).name for tensor in tensors] if job is not None else []
        return replace(found, rules=list(dict.fromkeys(names)))

    return Inspection(
        experts=short_paths([str(expert.path) for expert in config.experts]),
        whole=_figures("all", [tensor.products for tensor in surveyed], None),
        kinds=[figures(kind, tensors) for kind, tensors in kinds.items()],
        layers=[figures(tensor.name, [tensor]) for tensor in surveyed],
        linear_cosines=total(linear).cosines.tolist() if linear else [],
    )


def _mean_rank(base: Checkpoint, tensor: Surveyed, expert: Checkpoint, key: str) -> Rank | None:
    """The mean over a stack's matrices, of which one is in memory at a time."""
    return _mean(
        rank((expert.read(key, rows).float() - base.read(tensor.name, rows).float()).flatten(0, -2))
        for rows in matrices_of(tensor.shape)
    )


@full_precision
def rank(task_vector: Tensor) -> Rank | None:
    """Stable and effective rank of a matrix; None for a zero one.

    Args:
        task_vector: out × in, float32.
    """
    matrix = task_vector if task_vector.shape[0] <= task_vector.shape[1] else task_vector.T
    largest_entry = matrix.abs().max()
    if largest_entry == 0:
        return None
    matrix = matrix / largest_entry
    gram = (matrix @ matrix.T).double()
    squares = gram.trace()
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(gram), generator=generator, dtype=gram.dtype)
    for _ in range(POWER_STEPS):
        vector = gram @ vector
        vector /= vector.norm()
    largest = vector @ gram @ vector
    return Rank(float(squares / largest), float(squares**2 / gram.square().sum()))


def _figures(
    name: str, parts: Sequence[Products], ranks: Sequence[list[Rank | None] | None] | None
) -> Figures:
    whole = total(parts)
    measured = [row for row in ranks or [] if row is not None]
    return Figures(
        name=name,
        count=len(parts),
        norms=[norm if math.isfinite(norm) else None for norm in whole.relative_norms.tolist()],
        unchanged=(whole.unchanged / max(whole.read, 1)).tolist(),
        unchanged_bf16=(whole.unchanged_bf16 / max(whole.read, 1)).tolist(),
        cosines=whole.cosines.tolist(),
        ranks=[_mean(column) for column in zip(*measured, strict=True)] if measured else None,
    )


def _mean(ranks: Iterable[Rank | None]) -> Rank | None:
    present = [rank for rank in ranks if rank is not None]
    if not present:
        return None
    stable = sum(rank.stable for rank in present) / len(present)
    return Rank(stable, sum(rank.effective for rank in present) / len(present))
