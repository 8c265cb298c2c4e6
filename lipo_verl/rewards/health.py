"""Counts the samples that could not be scored, shows them, and stops a run that has too many.

A reward that fails in silence is a 0 that the model is trained on. So each kind of error is logged
with its sample when it is first seen and at intervals, and an error rate over the limit ends the
run; and there is a warning where nearly no response has an answer, or keeps the form. [ours]
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

NEARLY_NONE = 0.05
"""The share of a window's responses up to which a missing answer or form is no accident."""

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

    Args:
        limit: the share of the last WINDOW samples, of at least LEAST, that may be errors.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._first: list[str] = []
        self._stopped: RewardErrorRate | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise RewardErrorRate once the run was to be stopped: nothing is scored after that."""
        if self._stopped is not None:
            raise RewardErrorRate(*self._stopped.args)

    def succeeded(self) -> None:
        """Count a sample that was scored."""
        with self._lock:
            self._recent.append(False)

    def failed(self, error: Exception, sample: Sample, *, by_answer: bool = False) -> None:
        """Count a sample that could not be scored.

        Args:
            by_answer: the answer's doing, so that it says nothing of the data and stops no run.

        Raises:
            RewardErrorRate: there are too many others.
        """
        kind = type(error).__name__
        with self._lock:
            self._recent.append(not by_answer)
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


class Silence:
    """Warns, once each, where nearly no response has an answer, and where nearly none keeps the
    template. Threads may share it.

    Args:
        extract, template: the settings of those names.
    """

    def __init__(self, extract: str, template: str) -> None:
        self.extract, self.template = extract, template
        self._recent: deque[tuple[bool, bool, bool]] = deque(maxlen=WINDOW)
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def saw(self, sample: Sample, *, found: bool, kept: bool, opened: bool) -> None:
        """Count a response.

        Args:
            found: it has an answer.
            kept: it keeps the template, or there is none.
            opened: it would keep the template if its prompt opened the thought.
        """
        with self._lock:
            self._recent.append((found, kept, opened))
            if len(self._recent) < WINDOW:
                return
            answers, forms, openings = (sum(column) for column in zip(*self._recent, strict=True))
            if answers <= NEARLY_NONE * WINDOW:
                self._warn(
                    "answers",
                    f"{answers} of the last {WINDOW} responses have an answer where "
                    f"extract={self.extract} looks for it; the others score 0. Ask for that form "
                    "in the prompt, or set the reward's extract.",
                    sample,
                )
            if forms <= NEARLY_NONE * WINDOW:
                advice = (
                    f"{openings} would if their prompt opened <think>, as some chat templates do: "
                    "set the reward's think_in_prompt=true."
                    if openings > NEARLY_NONE * WINDOW
                    else "Ask for that form in the prompt, or set the reward's template."
                )
                self._warn(
                    "forms",
                    f"{forms} of the last {WINDOW} responses keep template={self.template}. "
                    + advice,
                    sample,
                )

    def _warn(self, kind: str, message: str, sample: Sample) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s The last one: %s", message, sample)
