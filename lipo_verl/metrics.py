"""What a trainer's logger shows of LIPO, as `lipo/...`; docs/lipo.md explains each."""

import functools
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from lipo_verl.batch import Group
from lipo_verl.lipo import Lipo, sign_flips

logger = logging.getLogger(__name__)

_ZERO = 1e-9
"""An advantage closer to 0 than this is none."""


def lipo_metrics(groups: Collection[Group]) -> dict[str, float]:
    """The metrics of one training step, over all batches of it.

    Args:
        groups: as `lipo_verl.batch.estimate` returns them, of one batch or of several, the
            newest first.
    """
    compared = [(group, group.result) for group in groups if group.result is not None]
    alone = sum(len(group.rows) for group in groups if group.result is None)
    if not compared:
        return {"lipo/groups_of_one": alone}

    def flat(of_group: Callable[[Group, Lipo], npt.ArrayLike]) -> ndarray:
        return np.concatenate([np.ravel(of_group(group, result)) for group, result in compared])

    def mean(values: ndarray) -> float:
        return float(values.mean()) if values.size else 0.0

    lengths = flat(lambda g, r: g.lengths)
    correct = flat(lambda g, r: g.correct)
    gain = flat(lambda g, r: r.shaped - g.rewards)
    return {
        "lipo/groups_of_one": alone,
        "lipo/groups_active": mean(flat(lambda g, r: (abs(r.advantages) > _ZERO).any(1))),
        "lipo/groups_all_right": mean(flat(lambda g, r: g.correct.all(1))),
        "lipo/groups_all_wrong": mean(flat(lambda g, r: ~g.correct.any(1))),
        "lipo/groups_same_length": mean(flat(lambda g, r: (g.lengths == g.lengths[:, :1]).all(1))),
        "lipo/groups_truncated": mean(flat(lambda g, r: g.truncated.any(1))),
        "lipo/groups_gated": mean(flat(lambda g, r: r.gated)),
        "lipo/truncated": mean(flat(lambda g, r: g.truncated)),
        "lipo/boosted": mean(flat(lambda g, r: r.boosted)),
        "lipo/boost": mean(gain[gain > 0]),
        "lipo/lowered": mean(gain < 0),
        "lipo/penalty": mean(-gain[gain < 0]),
        "lipo/kept": mean(flat(lambda g, r: r.kept)),
        "lipo/optimum_length": mean(flat(lambda g, r: r.optimum)),
        "lipo/weight": mean(flat(lambda g, r: r.weights)),
        "lipo/accuracy": mean(correct),
        "lipo/length": mean(lengths),
        "lipo/length_correct": mean(lengths[correct]),
        "lipo/length_wrong": mean(lengths[~correct]),
        "lipo/tokens_per_correct": float(lengths.sum()) / max(int(correct.sum()), 1),
        "lipo/length_score_correlation": mean(
            flat(lambda g, r: _rank_correlation(g.lengths, g.rewards))
        ),
        "lipo/sign_flips": mean(flat(lambda g, r: sign_flips(g.correct, r.unclamped))),
    } | {f"lipo/{name}": value for name, value in compared[0][0].state.items()}


def reward_metrics(batches: Iterable[Mapping[str, ndarray]]) -> dict[str, float]:
    """`reward/<part>`, the mean of each part over the responses that have it, as EasyR1 logs it.

    Args:
        batches: for each batch {name: (B,) float, NaN where a response has no such part}.
    """
    columns: dict[str, list[ndarray]] = {}
    for parts in batches:
        for name, column in parts.items():
            columns.setdefault(name, []).append(column[~np.isnan(column)])
    means = {f"reward/{name}": np.concatenate(column) for name, column in columns.items()}
    return {name: float(values.mean()) for name, values in means.items() if values.size}


class CollapseAlarm:
    """Rings while answers get shorter and wrong at the same time. [ours]

    It compares the last five batches with the five before: mean length down by more than 5 %, and
    accuracy by more than 5 points. It also tells, once, of ten batches without a right answer.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=10)
        self._rings = False

    def __call__(self, metrics: dict[str, float]) -> dict[str, float]:
        """`lipo/collapse_alarm`, 1 or 0, after one more batch; warns when it begins to ring.

        Args:
            metrics: as `lipo_metrics` returns them.
        """
        if "lipo/length" not in metrics:
            return {}
        self._seen.append((metrics["lipo/length"], metrics["lipo/accuracy"]))
        if len(self._seen) < 10:
            return {"lipo/collapse_alarm": 0.0}
        if not any(accuracy for _, accuracy in self._seen):
            _warn_of_nothing_right()
        (length, accuracy), (now_length, now_accuracy) = np.mean(
            np.reshape(self._seen, (2, 5, 2)), axis=1
        )
        rang, self._rings = (
            self._rings,
            bool(now_length < 0.95 * length and now_accuracy < accuracy - 0.05),
        )
        if self._rings and not rang:
            logger.warning(
                "LIPO: answers get shorter and wrong: in five batches their length fell from %.1f "
                "to %.1f tokens and their accuracy from %.2f to %.2f. See docs/lipo.md on "
                "std_floor, min_pass_rate and sign_clamp.",
                *(length, now_length, accuracy, now_accuracy),
            )
        return {"lipo/collapse_alarm": float(self._rings)}


@functools.cache
def _warn_of_nothing_right() -> None:
    logger.warning(
        "LIPO: no answer of ten batches counts as right, so none was boosted. Is "
        "algorithm.lipo.correct_score on the scale of the rewards? See docs/lipo.md."
    )


def _rank_correlation(x: ndarray, y: ndarray) -> ndarray:
    """(number of groups with spread in both,) Spearman's correlation of (G, n) `x` and `y`."""
    x, y = _ranks(x), _ranks(y)
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    norm = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    spread = norm > 0
    return (x * y).sum(1)[spread] / norm[spread]


def _ranks(x: ndarray) -> ndarray:
    """(G, n) ranks within the row, ties share their mean rank."""
    below = (x[:, :, None] > x[:, None, :]).sum(2)
    equal = (x[:, :, None] == x[:, None, :]).sum(2)
    return below + (equal + 1) / 2
