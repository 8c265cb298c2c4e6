"""LIPO inside verl. verl imports this module in every process: it is its entry point for plug-ins.

What it touches in verl, each seen in 0.9.1:

- ``core_algos.register_adv_est("lipo")``: verl's own registry.
- ``verl.utils.config.validate_config`` is wrapped, so that a wrong setting stops the run before Ray
  starts. Goes away when verl lets an estimator check its settings.
- ``verl.trainer.ppo.metric_utils.compute_data_metrics`` is wrapped, so that ``lipo/...`` reaches
  the ordinary logger. Goes away when an estimator may return metrics.

An unknown version of verl is left as it is, and a run that asks for LIPO there is refused.
verl only logs an exception of a plug-in at debug level, so nothing here may raise by accident.
"""

import functools
import logging
import os
from typing import Any

import numpy as np
import torch
import verl
from torch import Tensor

from lipo_verl.batch import Group, estimate
from lipo_verl.config import LipoConfig
from lipo_verl.metrics import lipo_metrics

logger = logging.getLogger(__name__)

KNOWN_VERSIONS = ("0.9.",)

_groups: list[Group] = []
"""The groups of the last batch, from the estimator to the metrics: one process, one trainer."""


class LipoSetupError(ValueError):
    """The launch asks for LIPO in a way that cannot work; the message says what to set."""


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
    with torch.no_grad():
        advantages, _groups[:] = estimate(
            token_level_rewards.sum(-1), response_mask.sum(-1, dtype=torch.float64), index, settings
        )
        advantages = advantages.to(token_level_rewards.dtype).unsqueeze(-1) * response_mask
    return advantages, advantages


@functools.cache
def _announce(settings: LipoConfig) -> None:
    print(
        f"LIPO is live in process {os.getpid()} (verl {verl.__version__}): {settings}", flush=True
    )


def _settings(algorithm: Any) -> LipoConfig:
    settings = LipoConfig.parse(algorithm.get("lipo"))
    _announce(settings)
    return settings


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
        elif config.algorithm.get("lipo") is not None:
            logger.warning(
                "algorithm.lipo is set, but algorithm.adv_estimator=%s does not read it",
                config.algorithm.adv_estimator,
            )
        validate_config(config, *args, **kwargs)

    @functools.wraps(compute_data_metrics)
    def compute_data_and_lipo_metrics(*args: Any, **kwargs: Any) -> dict[str, Any]:
        metrics = compute_data_metrics(*args, **kwargs)
        metrics.update(lipo_metrics(_groups) if _groups else {})
        _groups.clear()
        return metrics

    verl_config.validate_config = validate_config_and_lipo
    if known:
        metric_utils.compute_data_metrics = compute_data_and_lipo_metrics
        core_algos.register_adv_est("lipo")(compute_lipo_advantage)


try:
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from lipo_verl.cpu import verl_patches

        verl_patches.apply()
    _register()
except Exception:
    logger.exception("lipo_verl could not register with verl %s", verl.__version__)
    raise
