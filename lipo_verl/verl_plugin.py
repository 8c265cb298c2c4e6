"""LIPO inside verl. verl imports this module in every process: it is its entry point for plug-ins.

What it touches in verl, each seen in 0.9.1:

- ``core_algos.register_adv_est("lipo")``: verl's own registry.
- ``verl.utils.config.validate_config`` is wrapped, so that a wrong setting stops the run before Ray
  starts, and LIPO learns the response budget. Goes away when verl lets an estimator check its
  settings.
- ``compute_advantage_for_multi_trajectories`` is wrapped in the v1 trainer, because verl narrows
  a session of several outputs to its last one for GRPO alone. Goes away when verl does so for every
  estimator.
- ``replay_buffer`` of the v1 trainer: see :mod:`lipo_verl.rewards.stop`.
- ``verl.trainer.ppo.metric_utils.compute_data_metrics`` is wrapped, so that ``lipo/...`` reaches
  the ordinary logger. Goes away when an estimator may return metrics.

An unknown version of verl is left as it is, and a run that asks for LIPO there is refused.
verl only logs an exception of a plug-in at debug level, so nothing here may raise by accident.
"""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import verl
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from lipo_verl.batch import Group, token_advantages
from lipo_verl.config import LipoConfig, LipoSetupError
from lipo_verl.import_hook import after_import
from lipo_verl.metrics import CollapseAlarm, lipo_metrics
from lipo_verl.rewards import stop

logger = logging.getLogger(__name__)

KNOWN_VERSIONS = ("0.9.",)

_groups: list[Group] = []
"""The groups of the last batch, from the estimator to the metrics: one process, one trainer."""

_alarm = CollapseAlarm()

_parsed: list[tuple[Any, LipoConfig]] = []
"""The ``algorithm`` section read last, and its settings: a run hands over one object."""


def compute_lipo_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    config: Any,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """verl's interface of an advantage estimator.

    token_level_rewards: (B, T) float, their sum is the rule's score of the response
    response_mask:       (B, T) any type, 1 on tokens that the policy generated
    index:               (B,) the uid of each response's prompt
    config:              verl's ``algorithm`` section
    returns:             (B, T) advantages and, equal to them, returns

    Raises ValueError for a score that is not finite, LipoConfigError for a wrong setting.
    """
    settings = _settings(config)
    advantages, _groups[:] = token_advantages(token_level_rewards, response_mask, index, settings)
    return advantages, advantages


def last_outputs(batch_keys: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which rows decide where an agent's session gave several outputs: the last of each session.

    batch_keys: B keys ``{uid}_{session}_{output}``, as verl's trainer names its rows
    returns:    the S deciding rows, and for each of the B rows its session's place among them
    """
    sessions, _, outputs = zip(*(key.rpartition("_") for key in batch_keys), strict=True)
    last = {}
    for row in sorted(range(len(batch_keys)), key=lambda row: int(outputs[row])):
        last[sessions[row]] = row
    place = {session: k for k, session in enumerate(last)}
    return list(last.values()), [place[session] for session in sessions]


def _on_last_outputs(compute_advantage: Any) -> Any:
    """verl's ``compute_advantage_for_multi_trajectories`` that treats LIPO as it treats GRPO."""

    @functools.wraps(compute_advantage)
    def on_last_outputs(data: Any, batch_keys: Sequence[str], adv_estimator: Any, **rest: Any):
        if adv_estimator != "lipo":
            return compute_advantage(data, batch_keys, adv_estimator, **rest)
        rows, places = last_outputs(batch_keys)
        last = data.select_idxs(rows)
        last = compute_advantage(last, [batch_keys[row] for row in rows], adv_estimator, **rest)
        first_token = last.batch["response_mask"].int().argmax(1, keepdim=True)
        per_session = last.batch["advantages"].gather(1, first_token)
        advantages = per_session[places] * data.batch["response_mask"]
        data.batch["advantages"] = data.batch["returns"] = advantages
        return data

    return on_last_outputs


def _settings(algorithm: Any) -> LipoConfig:
    """The settings in ``algorithm.lipo``, announced when they are read for the first time."""
    if not _parsed or _parsed[0][0] is not algorithm:
        settings = LipoConfig.parse(algorithm.get("lipo"))
        print(
            f"LIPO is live in process {os.getpid()} (verl {verl.__version__}): {settings}",
            flush=True,
        )
        _parsed[:] = [(algorithm, settings)]
    return _parsed[0][1]


def check_launch(config: Any) -> None:
    """Refuses a launch of LIPO that could only fail, or mislead, later.

    config: verl's whole configuration. Raises LipoSetupError or LipoConfigError.
    """
    LipoConfig.parse(config.algorithm.get("lipo"))
    n = config.actor_rollout_ref.rollout.n
    if n < 2:
        raise LipoSetupError(
            f"LIPO compares the responses to one prompt, but actor_rollout_ref.rollout.n={n}. "
            "Set it to 2 or more (5 to 16 are usual)."
        )
    if config.algorithm.use_kl_in_reward:
        raise LipoSetupError(
            "LIPO compares rule scores, but algorithm.use_kl_in_reward=True hands it scores minus "
            "KL. Set algorithm.use_kl_in_reward=False, and "
            "actor_rollout_ref.actor.use_kl_loss=True to keep the KL term in the loss."
        )
    rejection = (config.algorithm.get("rollout_correction") or {}).get("rollout_rs")
    if rejection is not None:
        raise LipoSetupError(
            f"algorithm.rollout_correction.rollout_rs={rejection} empties the mask of rejected "
            "responses before LIPO can count their tokens. Set it to null; importance weights "
            "(rollout_is) are fine."
        )


def _hand_over_budget(config: Any) -> None:
    """Writes ``algorithm.lipo.response_budget`` where the user did not: an estimator sees no more
    of the configuration than its ``algorithm`` section."""
    given = config.algorithm.get("lipo") or {}
    budget = {"response_budget": config.actor_rollout_ref.rollout.response_length}
    with open_dict(config.algorithm):
        config.algorithm.lipo = OmegaConf.merge(budget, given)


def _register() -> None:
    from verl.trainer.ppo import core_algos, metric_utils
    from verl.utils import config as verl_config

    known = verl.__version__.startswith(KNOWN_VERSIONS)
    validate_config = verl_config.validate_config
    compute_data_metrics = metric_utils.compute_data_metrics

    @functools.wraps(validate_config)
    def validate_config_and_lipo(config: Any, *args: Any, **kwargs: Any) -> None:
        if config.algorithm.adv_estimator == "lipo":
            if not known:
                raise LipoSetupError(
                    f"lipo_verl does not know verl {verl.__version__}; it was made for "
                    f"{', '.join(v + 'x' for v in KNOWN_VERSIONS)}. Install a known version, or a "
                    "newer lipo_verl."
                )
            check_launch(config)
            _hand_over_budget(config)
        elif config.algorithm.get("lipo") is not None:
            logger.warning(
                "algorithm.lipo is set, but algorithm.adv_estimator=%s does not read it",
                config.algorithm.adv_estimator,
            )
        validate_config(config, *args, **kwargs)

    @functools.wraps(compute_data_metrics)
    def compute_data_and_lipo_metrics(*args: Any, **kwargs: Any) -> dict[str, Any]:
        metrics = compute_data_metrics(*args, **kwargs)
        if _groups:
            of_lipo = lipo_metrics(_groups)
            metrics.update(of_lipo, **_alarm(of_lipo))
            _groups.clear()
        return metrics

    verl_config.validate_config = validate_config_and_lipo
    if known:
        metric_utils.compute_data_metrics = compute_data_and_lipo_metrics
        core_algos.register_adv_est("lipo")(compute_lipo_advantage)
        after_import("verl.trainer.ppo.v1.trainer_base", _narrow_sessions)
        after_import("verl.trainer.ppo.v1.replay_buffer", stop.watch)


def _narrow_sessions(trainer_base: Any) -> None:
    trainer_base.compute_advantage_for_multi_trajectories = _on_last_outputs(
        trainer_base.compute_advantage_for_multi_trajectories
    )


try:
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from lipo_verl.cpu import verl_patches

        verl_patches.apply()
    _register()
except Exception:
    logger.exception("lipo_verl could not register with verl %s", verl.__version__)
    raise
