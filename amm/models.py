"""The models of a merge, opened once: what plans, looks at and carries out a merge shares."""

from __future__ import annotations

from dataclasses import dataclass

from amm.checkpoints import Checkpoint, open_checkpoint
from amm.checkpoints.keys import Matching, match
from amm.checkpoints.rebased import RebasedCheckpoint
from amm.config import Expert, MergeConfig


@dataclass(frozen=True)
class Models:
    """Open checkpoints and where their tensors are.

    Attributes:
        base: the base's checkpoint.
        experts: the experts'.
        matching: where the base's tensors are in the experts.
    """

    base: Checkpoint
    experts: list[Checkpoint]
    matching: Matching


def open_models(config: MergeConfig, *, sampled: bool = False) -> Models:
    """Open the base and the experts of a merge.

    Args:
        config: the merge.
        sampled: see `match`.

    Raises:
        InputError: an input can't be read at all.
    """
    base = open_checkpoint(config.base)
    partial = [config.partial_experts or expert.partial for expert in config.experts]
    experts = [
        _open(expert, base, part, sampled)
        for expert, part in zip(config.experts, partial, strict=True)
    ]
    return Models(base, experts, match(base, experts, partial=partial, sampled=sampled))


def _open(expert: Expert, base: Checkpoint, partial: bool, sampled: bool) -> Checkpoint:
    if expert.base is None:
        return open_checkpoint(expert.path, base)
    own = open_checkpoint(expert.base, base)
    return RebasedCheckpoint(base, open_checkpoint(expert.path, own), own, partial, sampled)
