"""What a trainer's logger shows of LIPO, as ``lipo/...``; docs/lipo.md explains each."""

import torch
from torch import Tensor

from lipo_verl.batch import Group

CORRECT = 0.5
"""A response counts as correct from this score on. [ours]"""

_ZERO = 1e-9
"""An advantage closer to 0 than this is none."""


def lipo_metrics(groups: list[Group]) -> dict[str, float]:
    """The metrics of one batch.

    groups: as :func:`lipo_verl.batch.estimate` returns them
    """
    compared = [group for group in groups if group.result is not None]
    alone = sum(len(group.rows) for group in groups if group.result is None)
    if not compared:
        return {"lipo/groups_of_one": alone}

    def flat(tensors: list[Tensor]) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in tensors]).double()

    def mean(values: Tensor) -> float:
        return values.mean().item() if values.numel() else 0.0

    lengths = flat([g.lengths for g in compared])
    advantages = flat([g.result.advantages for g in compared])
    gain = flat([g.result.adjusted - g.rewards for g in compared])
    right = [g.rewards >= CORRECT for g in compared]
    correct = flat(right).bool()
    mixed = flat([(r.any(1) & ~r.all(1)).unsqueeze(1).expand_as(r) for r in right]).bool()
    flipped = mixed & torch.where(correct, advantages < -_ZERO, advantages > _ZERO)
    return {
        "lipo/groups_of_one": alone,
        "lipo/groups_active": mean(
            flat([(g.result.advantages.abs() > _ZERO).any(1) for g in compared])
        ),
        "lipo/groups_all_right": mean(flat([r.all(1) for r in right])),
        "lipo/groups_all_wrong": mean(flat([~r.any(1) for r in right])),
        "lipo/groups_same_length": mean(
            flat([(g.lengths == g.lengths[:, :1]).all(1) for g in compared])
        ),
        "lipo/boosted": mean((gain > 0).double()),
        "lipo/boost": mean(gain[gain > 0]),
        "lipo/optimum_length": mean(flat([g.result.optimum for g in compared])),
        "lipo/weight": mean(flat([g.result.weights for g in compared])),
        "lipo/length_correct": mean(lengths[correct]),
        "lipo/length_wrong": mean(lengths[~correct]),
        "lipo/tokens_per_correct": lengths.sum().item() / max(int(correct.sum()), 1),
        "lipo/length_score_correlation": mean(
            flat([_rank_correlation(g.lengths, g.rewards) for g in compared])
        ),
        "lipo/sign_flips": mean(flipped.double()),
    }


def _rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """(number of groups with spread in both,) Spearman's correlation of (G, n) ``x`` and ``y``."""
    x, y = _ranks(x), _ranks(y)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    norm = x.norm(dim=1) * y.norm(dim=1)
    return ((x * y).sum(1) / norm)[norm > 0]


def _ranks(x: Tensor) -> Tensor:
    """(G, n) ranks within the row, ties share their mean rank."""
    below = (x.unsqueeze(2) > x.unsqueeze(1)).sum(2)
    equal = (x.unsqueeze(2) == x.unsqueeze(1)).sum(2)
    return below + (equal + 1) / 2
