"""From a trainer's batch to groups and back: the plumbing around :func:`lipo_verl.lipo.lipo`."""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipo_verl.config import LipoConfig
from lipo_verl.lipo import Lipo, lipo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """The groups of one size that a batch holds, and what LIPO made of them.

    rows:    (G, n) int64, the batch rows of each group's responses
    rewards: (G, n) float64, the rule's scores
    lengths: (G, n) float64, tokens
    result:  what LIPO made of them; None for groups of one response, whose advantage is 0
    """

    rows: Tensor
    rewards: Tensor
    lengths: Tensor
    result: Lipo | None


def estimate(
    scores: Tensor, lengths: Tensor, uids: Sequence[Any] | np.ndarray, config: LipoConfig
) -> tuple[Tensor, list[Group]]:
    """LIPO's advantage of every response of a batch, and the groups behind it.

    scores:  (B,) the rule's score of each response, any float type
    lengths: (B,) tokens the policy generated, any type; an empty response counts as one token
    uids:    B hashable values; responses of one prompt share theirs, in any order
    returns: (B,) float64 advantages, and one Group for every group size in the batch

    Raises ValueError where there is not one uid per score, and, naming uid and score, where a score
    is NaN or infinite. Warns once of groups of one response: their advantage is 0.
    """
    if isinstance(uids, Tensor) or len(uids) != len(scores):
        raise ValueError(
            f"LIPO: uids must be a sequence of {len(scores)} hashable values, one per response, "
            f"not {type(uids).__name__} of {len(uids)}."
        )
    scores, lengths = scores.double(), lengths.double().clamp(min=1)
    finite = torch.isfinite(scores)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(
            f"LIPO: the reward of uid {uids[row]!r} (row {row}) is {scores[row].item()}. "
            f"{int((~finite).sum())} of {len(scores)} rewards are not finite; "
            "look at the reward function."
        )
    advantages = torch.zeros_like(scores)
    groups = []
    for rows in _rows_by_group_size(uids):
        rows = rows.to(scores.device)
        rewards, tokens = scores[rows], lengths[rows]
        if rows.shape[1] == 1:
            groups.append(Group(rows, rewards, tokens, None))
            _warn_of_singletons()
            continue
        result = lipo(rewards, tokens, **config.arguments())
        advantages[rows.flatten()] = result.advantages.flatten()
        groups.append(Group(rows, rewards, tokens, result))
    return advantages, groups


@functools.cache
def _warn_of_singletons() -> None:
    logger.warning(
        "LIPO: some prompts are left with one response (aborted rollouts?); their advantage is 0. "
        "Counted as lipo/groups_of_one."
    )


def _rows_by_group_size(uids: Sequence[Any] | np.ndarray) -> Iterator[Tensor]:
    """For every group size n in the batch: (G, n) int64, the rows of the G groups of that size."""
    codes: dict[Any, int] = {}
    group = np.fromiter((codes.setdefault(uid, len(codes)) for uid in uids), np.int64, len(uids))
    rows = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=len(codes))
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes):
        first = starts[sizes == size]
        yield torch.from_numpy(rows[first[:, None] + np.arange(size)])
