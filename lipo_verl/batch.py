"""From a trainer's batch to groups and back: the plumbing around `lipo_verl.lipo.lipo`.

Whatever device the batch is on, one transfer brings two numbers per response to the CPU and one
takes the advantages back: a few thousand scalars are quicker there, and the outcome is the same.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from lipo_verl.config import LipoConfig
from lipo_verl.lipo import Lipo, lipo
from lipo_verl.schemes import Responses, State, get_scheme

logger = logging.getLogger(__name__)

LARGEST_REWARD = 1e100
"""The square of a larger one is no float64."""


@dataclass(frozen=True, kw_only=True)
class Group(Responses):
    """The groups of one size that a batch holds, and what LIPO made of them.

    Attributes:
        rows: (G, n) int64, the batch rows of each group's responses.
        result: what LIPO made of them; None for groups of one response, whose advantage is 0.
        state: what the scheme remembers after the batch, by name.
    """

    rows: ndarray
    result: Lipo | None = None
    state: State = field(default_factory=dict)


@dataclass
class Memory:
    """What a scheme remembers from batch to batch; one for each run."""

    state: State | None = None


def token_advantages(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    uids: Sequence[Any] | ndarray,
    config: LipoConfig,
    *,
    lengths: ndarray | None = None,
    truncated: ndarray | None = None,
    accuracy: ndarray | None = None,
    memory: Memory | None = None,
) -> tuple[Tensor, list[Group]]:
    """LIPO's advantage of every token of a batch, as a trainer wants it, and the groups behind it.

    Args:
        token_level_rewards: (B, T) any type, their sum is the rule's score of the response.
        response_mask: (B, T) any type, 1 on tokens that the policy generated, 0 on others; padding
            on either side.
        uids, accuracy, memory: see `estimate`.
        config: the settings.
        lengths: (B,) tokens, where they are not those of the mask: an agent's session of several
            outputs; None: the mask's.
        truncated: (B,) bool, the responses that were cut; None: those that reach the budget.

    Returns:
        (B, T) advantages on the rewards' device, of their type, float32 where that is no float; the
        groups.

    Raises:
        ValueError: see `estimate`.
    """
    dtype = token_level_rewards.dtype if token_level_rewards.is_floating_point() else torch.float32
    summed_in = torch.promote_types(dtype, torch.float32)
    advantages = response_mask.detach().to(dtype, copy=True)
    scores = token_level_rewards.detach().sum(-1, dtype=summed_in).cpu().numpy()
    if lengths is None:
        lengths = advantages.sum(-1, dtype=summed_in).cpu().numpy()
    if truncated is None:
        truncated = reaches(config.response_budget, advantages)
    of_response, groups = estimate(scores, lengths, truncated, uids, config, accuracy, memory)
    advantages.mul_(torch.from_numpy(of_response[:, None]).to(advantages))
    return advantages, groups


def reaches(budget: int | None, mask: Tensor) -> ndarray:
    """(B,) bool, which responses are as long as the budget allows, or longer.

    Args:
        budget: tokens; None: there is none.
        mask: (B, T) any type, not 0 on the first and on the last token of a response; padding on
            either side.
    """
    width = mask.shape[1]
    if budget is None or budget > width:
        return np.zeros(len(mask), bool)
    from_left = mask[:, 0] * mask[:, budget - 1]
    from_right = mask[:, width - budget] * mask[:, width - 1]
    return (from_left + from_right > 0).cpu().numpy()


def estimate(
    scores: ndarray,
    lengths: ndarray,
    truncated: ndarray,
    uids: Sequence[Any] | ndarray,
    config: LipoConfig,
    accuracy: ndarray | None = None,
    memory: Memory | None = None,
) -> tuple[ndarray, list[Group]]:
    """LIPO's advantage of every response of a batch, and the groups behind it.

    A group without a single token, a trainer's padding, is left out: its advantages are 0. Warns
    once of groups of one response: their advantage is 0.

    Args:
        scores: (B,) the rule's score of each response, any float type.
        lengths: (B,) tokens the policy generated, any type; an empty response counts as one token.
        truncated: (B,) bool, responses cut at the budget.
        uids: B hashable values; responses of one prompt share theirs, in any order.
        config: the settings.
        accuracy: (B,) the part of the reward that says how right the answer is, NaN where it names
            none; None: it never does, and the scores say it.
        memory: the run's, for a scheme that has one.

    Returns:
        (B,) float64 advantages, and one Group for every group size in the batch.

    Raises:
        ValueError: there is not one uid per score; the scheme wants a memory or a response budget
            and has none; or, naming uid and score, a score is NaN, infinite or beyond
            LARGEST_REWARD.
    """
    if isinstance(uids, Tensor) or len(uids) != len(scores):
        raise ValueError(
            f"LIPO: uids must be a sequence of {len(scores)} hashable values, one per response, "
            f"not {type(uids).__name__} of {len(uids)}."
        )
    scores = scores.astype(np.float64)
    if not np.abs(scores).max() <= LARGEST_REWARD:
        usable = np.abs(scores) <= LARGEST_REWARD
        row = int(usable.argmin())
        raise ValueError(
            f"LIPO: the reward of uid {uids[row]!r} (row {row}) is {scores[row]}. "
            f"{int((~usable).sum())} of {len(scores)} rewards are not finite, or beyond "
            f"{LARGEST_REWARD:g}; look at the reward function."
        )
    memory = memory or _no_memory(config)
    correct = _correct(scores, accuracy, config.correct_score)
    compared: list[tuple[ndarray, Responses]] = []
    alone: list[tuple[ndarray, Responses]] = []
    for rows in _rows_by_group_size(uids):
        tokens = lengths[rows]
        if not tokens.all():
            rows = rows[tokens.any(1)]
            tokens = np.maximum(lengths[rows], 1)
        if not len(rows):
            continue
        responses = Responses(
            scores[rows],
            tokens.astype(np.float64),
            correct[rows],
            truncated[rows],
            config.response_budget,
        )
        (compared if rows.shape[1] > 1 else alone).append((rows, responses))
    advantages = np.zeros(len(scores))
    groups = []
    if compared:
        results, memory.state = lipo([r for _, r in compared], config, memory.state)
        for (rows, responses), result in zip(compared, results, strict=True):
            advantages[rows] = result.advantages
            groups.append(
                Group(**vars(responses), rows=rows, result=result, state=memory.state or {})
            )
    if alone:
        _warn_of_singletons()
        groups += [Group(**vars(responses), rows=rows) for rows, responses in alone]
    return advantages, groups


def _no_memory(config: LipoConfig) -> Memory:
    if get_scheme(config.scheme).remember is not None:
        raise ValueError(
            f"the scheme {config.scheme} remembers earlier batches: pass memory=Memory(), the same "
            "one with every batch of a run."
        )
    return Memory()


def _correct(scores: ndarray, accuracy: ndarray | None, least: float) -> ndarray:
    """(B,) bool. An accuracy of 1 is right and one of 0 is wrong, wherever `correct_score` lies
    on the scale of the scores; in between it decides. [ours]"""
    by_score = scores >= least
    if accuracy is None:
        return by_score
    accuracy = np.asarray(accuracy, np.float64)
    by_accuracy = (accuracy == 1) | (accuracy > 0) & (accuracy >= least)
    return np.where(np.isnan(accuracy), by_score, by_accuracy)


@functools.cache
def _warn_of_singletons() -> None:
    logger.warning(
        "LIPO: some prompts are left with one response (aborted rollouts?); their advantage is 0. "
        "Counted as lipo/groups_of_one."
    )


def _rows_by_group_size(uids: Sequence[Any] | ndarray) -> Iterator[ndarray]:
    """For every group size n in the batch: (G, n) int64, the rows of the G groups of that size."""
    first_row: dict[Any, int] = {}
    uids = uids.tolist() if isinstance(uids, ndarray) else uids
    group = np.fromiter(map(first_row.setdefault, uids, count()), np.int64, len(uids))
    rows = group.argsort(kind="stable")
    sizes = np.bincount(group)
    if sizes.max() * len(first_row) == len(uids):
        yield rows.reshape(len(first_row), -1)
        return
    sizes = sizes[sizes > 0]
    starts = sizes.cumsum() - sizes
    for size in np.unique(sizes):
        first = starts[sizes == size]
        yield rows[first[:, None] + np.arange(size)]
