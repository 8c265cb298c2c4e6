"""Counts the samples that could not be scored, shows them, and stops a run that has too many.

A reward that fails in silence is a 0 that the model is trained on. So each kind of error is logged
with its sample when it is first seen and at intervals, and an error rate over the limit ends the
run. [ours]
"""

import logging
import threading
from collections import Counter, deque
from dataclasses import dataclass

from lipo_verl.rewards.errors import RewardErrorRate

logger = logging.getLogger(__name__)

LEAST = 64
"""Samples to see before the error rate means anything."""

WINDOW = 256
"""Samples that the error rate looks back on."""

_LOG_EVERY = 100
_SHOWN = 3
_TAIL = 500


@dataclass(frozen=True)
class Sample:
    """What identifies a sample in a log."""

    data_source: str | None
    response: str
    truth: object

    def __str__(self) -> str:
        tail = self.response[-_TAIL:]
        cut = "…" if len(tail) < len(self.response) else ""
        source = None if self.data_source is None else str(self.data_source)
        return f"data source {source!r}, truth {self.truth!r}, response {cut}{tail!r}"


class Health:
    """The errors of one process; threads may share it.

    limit: the share of the last WINDOW samples, of at least LEAST, that may be errors
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._first: list[str] = []
        self._stopped: RewardErrorRate | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises RewardErrorRate once the run was to be stopped: nothing is scored after that."""
        if self._stopped is not None:
            raise RewardErrorRate(*self._stopped.args)

    def succeeded(self) -> None:
        """Counts a sample that was scored."""
        with self._lock:
            self._recent.append(False)

    def failed(self, error: Exception, sample: Sample) -> None:
        """Counts a sample that could not be scored.

        Raises RewardErrorRate where there are too many of them.
        """
        kind = type(error).__name__
        with self._lock:
            self._recent.append(True)
            self.counts[kind] += 1
            count = self.counts[kind]
            described = f"{kind}: {error} ({sample})"
            if len(self._first) < _SHOWN:
                self._first.append(described)
            if count == 1 or count % _LOG_EVERY == 0:
                logger.warning("Reward error %d of this kind, scored 0: %s", count, described)
            errors, seen = sum(self._recent), len(self._recent)
            if seen >= LEAST and errors > self.limit * seen and self._stopped is None:
                self._stopped = RewardErrorRate(self._report(errors, seen))
        self.check()

    def _report(self, errors: int, seen: int) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
        return "\n  ".join(
            [
                f"{errors} of the last {seen} samples could not be scored, more than "
                f"error_limit={self.limit:g}; in all: {kinds}. Look at the truths and at the "
                "reward's settings; error_limit=1 trains on regardless. The first errors:",
                *self._first,
            ]
        )
