"""What LIPO is to every trainer: the checks of a launch, the groups of a step, metrics, the alarm.

The adapters (`lipo_verl.verl_plugin`, `lipo_verl.easyr1.adapter`) translate their host's
configuration and batches into this, and no more.
"""

import functools
import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray
from torch import Tensor

from lipo_verl.batch import Group, Memory, token_advantages
from lipo_verl.config import SECTION, LipoConfig, LipoSetupError
from lipo_verl.metrics import CollapseAlarm, lipo_metrics
from lipo_verl.schemes import get_scheme

logger = logging.getLogger(__name__)

MOST_KEPT = 256
"""Groups of batches that wait for a trainer to take their metrics; the oldest go first. Trainers
take them after 1 to a few dozen batches."""

ACCURACY = ("accuracy", "acc")
"""What rewards call the part that says how right an answer is."""


@dataclass(frozen=True)
class Launch:
    """What a host's configuration says of a launch that asks for LIPO.

    Attributes:
        section: `algorithm.lipo`.
        responses: key and value of the responses per prompt.
        budget: tokens that a response may have.
        kl_in_rewards: where KL is folded into the rewards: by which setting, and what to set.
        empties_masks: where LIPO would not see all tokens: by which setting, and what to set.
        drops_right_groups: where groups that are all right are dropped: by which setting.
        ignored: a sentence for every setting that is not read under LIPO.
    """

    section: Any
    responses: tuple[str, int]
    budget: int | None
    kl_in_rewards: str | None = None
    empties_masks: str | None = None
    drops_right_groups: str | None = None
    ignored: Sequence[str] = ()


def check(launch: Launch) -> LipoConfig:
    """The settings of a launch, the budget filled in.

    Warns, once, of settings that do nothing under LIPO, or undo it.

    Raises:
        LipoConfigError: a setting is wrong.
        LipoSetupError: the launch could only fail, or mislead, later.
    """
    settings = LipoConfig.parse(launch.section)
    key, n = launch.responses
    if n < 2:
        raise LipoSetupError(
            f"LIPO compares the responses to one prompt, but {key}={n}. Set it to 2 or more (5 to "
            "16 are usual)."
        )
    if launch.kl_in_rewards:
        raise LipoSetupError(f"LIPO compares rule scores, but {launch.kl_in_rewards}")
    if launch.empties_masks:
        raise LipoSetupError(launch.empties_masks)
    if settings.keep is not None and settings.keep >= n:
        warn_once(f"{SECTION}.keep={settings.keep} filters nothing: {key}={n}.")
    for text in (*settings.without_effect, *launch.ignored):
        warn_once(text)
    if launch.drops_right_groups and get_scheme(settings.scheme).right_groups:
        warn_once(
            f"{launch.drops_right_groups} drops the groups that are all right, the very ones that "
            f"scheme={settings.scheme} shortens."
        )
    if settings.response_budget is None:
        settings = settings.model_copy(update={"response_budget": launch.budget})
    return settings


def warn_of_unread(section: Any, estimator: str) -> None:
    """Warn where LIPO is set, but another estimator runs."""
    if section is not None:
        warn_once(f"{SECTION} is set, but algorithm.adv_estimator={estimator} does not read it")


@functools.cache
def warn_once(text: str) -> None:
    logger.warning("%s", text)


def announce(host: str, settings: LipoConfig) -> None:
    """Print the line that proves that LIPO is in this process; host: its name and version."""
    print(f"LIPO is live in process {os.getpid()} ({host}): {settings}", flush=True)


@dataclass
class Run:
    """What one trainer keeps in its process between advantages and metrics.

    Attributes:
        groups: of the batches whose metrics were not taken yet, the newest first.
        memory: of the scheme.
        alarm: over the steps.
    """

    groups: deque[Group] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))
    memory: Memory = field(default_factory=Memory)
    alarm: CollapseAlarm = field(default_factory=CollapseAlarm)

    def advantages(
        self,
        token_level_rewards: Tensor,
        response_mask: Tensor,
        uids: Sequence[Any] | ndarray,
        settings: LipoConfig,
        **known: Any,
    ) -> Tensor:
        """As `lipo_verl.batch.token_advantages`; keeps the groups for the metrics."""
        advantages, groups = token_advantages(
            token_level_rewards, response_mask, uids, settings, memory=self.memory, **known
        )
        self.groups.extendleft(reversed(groups))
        return advantages

    def metrics(self) -> dict[str, float]:
        """`lipo/...` of the batches since they were taken last; none where there was no batch."""
        if not self.groups:
            return {}
        metrics = lipo_metrics(self.groups)
        self.groups.clear()
        return metrics | self.alarm(metrics)


def accuracy_of(parts: dict[str, ndarray]) -> ndarray | None:
    """(B,) the part of the reward that says how right an answer is; None where it names none."""
    return next((np.asarray(parts[name]) for name in ACCURACY if name in parts), None)
