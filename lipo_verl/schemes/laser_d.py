"""LASER-D (arXiv 2505.15612): LASER with a target length by difficulty that follows the policy.

    right and L_i <= L_T(p):  R'_i = R_i + bonus,     else:  R'_i = R_i                      [C]

p is the group's pass rate: hard below 1/3, medium below 2/3, easy from there on [C]. Every
`every` batches, L_T of each difficulty becomes the least length of a grid by which a group of it
may expect a right answer: with c the share of its responses that are no longer, and k the fewest
right answers of such a group of n (1; n/3; 2n/3, rounded down), the least T with floor(c k) >= 1,
and the longest response where no T of the grid has that [C].

The authors take c from a separate monitoring set; here it is the training batch itself, as an
estimator sees nothing else [ours]. A resumed run estimates anew with its first batch [ours].
"""

from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from pydantic import Field

from lipo_verl.schemes.registry import Responses, Settings, State, register

DIFFICULTIES = "hard", "medium", "easy"


class LaserDSettings(Settings):
    """Settings of LASER-D."""

    bonus: float = Field(0.5, ge=0, description="of right answers up to their target length [C]")
    every: int = Field(20, ge=1, description="batches between two estimates of the targets [C]")
    least_target: float = Field(
        1, ge=1, description="tokens; no target is shorter; the authors: 1024 to 4096 [C]"
    )
    grid_step: float = Field(
        1, gt=0, description="tokens between possible targets; the authors: 1024 [C]"
    )


def estimate_targets(
    state: State | None, batch: Sequence[Responses], settings: LaserDSettings
) -> State:
    """`target_length_<difficulty>` in tokens, and `target_age` in batches."""
    age = 0 if state is None else int(state["target_age"]) + 1
    if state is not None and age % settings.every:
        return {**state, "target_age": age}
    longest = max(responses.lengths.max() for responses in batch)
    grid = np.arange(settings.least_target, longest, settings.grid_step)
    targets = {}
    for level, name in enumerate(DIFFICULTIES):
        of_level = [(r, r.lengths[difficulty(r)[:, 0] == level].ravel()) for r in batch]
        lengths = np.sort(np.concatenate([lengths for _, lengths in of_level]))
        n = max((r.lengths.shape[1] for r, lengths in of_level if len(lengths)), default=1)
        needed = max(level * n // 3, 1)
        within = np.searchsorted(lengths, grid, side="right")
        enough = within * needed >= len(lengths)
        found = len(lengths) and enough.any()
        targets[f"target_length_{name}"] = float(grid[enough.argmax()] if found else longest)
    return {**targets, "target_age": 0}


def difficulty(responses: Responses) -> ndarray:
    """(G, 1) int: 0 hard, 1 medium, 2 easy."""
    thirds = 3 * responses.correct.sum(1, keepdims=True) // responses.correct.shape[1]
    return np.minimum(thirds, 2)


@register("laser_d", settings=LaserDSettings, remember=estimate_targets)
def laser_d(responses: Responses, settings: LaserDSettings, state: State) -> ndarray:
    """(G, n) R'."""
    targets = np.array([state[f"target_length_{name}"] for name in DIFFICULTIES])
    short = responses.correct & (responses.lengths <= targets[difficulty(responses)])
    return responses.rewards + settings.bonus * short
