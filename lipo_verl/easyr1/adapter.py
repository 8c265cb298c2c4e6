"""LIPO's side of EasyR1: the estimator, the check of a launch, and the patches that carry them.

What it touches in EasyR1, each seen in 0.3.2 and in 0.3.3.dev0 (July 2026), goes away when EasyR1

- `core_algos.AdvantageEstimator`: is replaced by the same enum with LIPO in it, since
  RayPPOTrainer refuses a name outside it. -- checks names against its own registry.
- `config.AlgorithmConfig`, `config.PPOConfig`: are replaced by subclasses with a field
  `lipo`, since its settings are closed dataclasses, and with the launch check, before Ray starts.
  -- lets an estimator bring and check its settings.
- `ray_trainer.RayPPOTrainer.__init__`: is wrapped, to hand the settings to the estimator of that
  process. -- gives estimators the configuration.
- its `reward_fn` and `ray_trainer.compute_advantage`: are wrapped, so that the accuracy that a
  reward names says what is correct. -- hands estimators the reward's parts.
- `ray_trainer.compute_data_metrics`: is wrapped, to add `lipo/...` to the ordinary logger.
  -- lets estimators return metrics.

Where the installed EasyR1 lacks one of them, as before 0.3.2, only the checks are in place, and
refuse a run that asks for LIPO.
"""

import functools
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import verl
from torch import Tensor

from lipo_verl import contract
from lipo_verl.config import LipoConfig, LipoSetupError
from lipo_verl.contract import Launch, Run
from lipo_verl.errors import nearest

_lacking: list[str] = []
"""What LIPO needs of EasyR1's modules, and those imported so far do not have."""


@dataclass
class _Process:
    """What the trainer, the estimator and the metrics of one process share."""

    settings: LipoConfig | None = None
    run: Run = field(default_factory=Run)
    rewards: Any = None
    """Ray's reference to the rewards that the batch was given last."""
    accuracy: np.ndarray | None = None
    """(B,) the accuracy that they name, while advantages are computed."""


_process = _Process()


def compute_lipo_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any] | np.ndarray,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """EasyR1's interface of an advantage estimator; this process's trainer brought the settings.

    Args:
        token_level_rewards, response_mask: (B, T), see `lipo_verl.batch.token_advantages`.
        index: (B,) the uid of each response's prompt.

    Returns:
        (B, T) advantages and, equal to them, returns.

    Raises:
        LipoSetupError: no trainer was made.
        ValueError: a score is not finite.
    """
    if _process.settings is None:
        raise LipoSetupError(
            f"LIPO has no settings in process {os.getpid()}: they come from the RayPPOTrainer made "
            "in the process that computes the advantages, and none with "
            "algorithm.adv_estimator=lipo was made here. Make the trainer first."
        )
    advantages = _process.run.advantages(
        token_level_rewards, response_mask, index, _process.settings, accuracy=_process.accuracy
    )
    return advantages, advantages


def check_launch(config: Any) -> LipoConfig | None:
    """The settings of a launch that asks for LIPO; None for one that does not.

    Args:
        config: EasyR1's PPOConfig.

    Raises:
        LipoConfigError: a setting is wrong.
        LipoSetupError: the launch could only fail, or mislead, later; or `lipo` is misspelt.
    """
    algorithm = config.algorithm
    if algorithm.adv_estimator != "lipo":
        _refuse_misspelt(algorithm.adv_estimator)
        return None
    importlib.import_module("verl.trainer.core_algos")
    if _lacking:
        raise LipoSetupError(
            f"EasyR1 {verl.__version__} has no {', '.join(_lacking)}, by which LIPO gets in: "
            "EasyR1 0.3.2 is the first that has all of it. Install that or a later one; where "
            "yours is later, lipo_verl is too old for it."
        )
    kl = drops = None
    if not algorithm.disable_kl and not algorithm.use_kl_loss:
        kl = (
            "algorithm.disable_kl=false with algorithm.use_kl_loss=false hands it scores minus KL. "
            "Set algorithm.use_kl_loss=true and algorithm.kl_penalty=low_var_kl to keep the KL "
            "term, in the loss as in the paper, or algorithm.disable_kl=true."
        )
    if algorithm.online_filtering and algorithm.filter_high <= 1:
        drops = (
            f"algorithm.online_filtering with filter_high={algorithm.filter_high} (1.01 drops only "
            "those that are all wrong)"
        )
    return contract.check(
        Launch(
            section=algorithm.lipo,
            responses=("worker.rollout.n", config.worker.rollout.n),
            budget=config.data.max_response_length,
            kl_in_rewards=kl,
            drops_right_groups=drops,
        )
    )


def _refuse_misspelt(estimator: str) -> None:
    core_algos = importlib.import_module("verl.trainer.core_algos")
    known = getattr(core_algos, "ADV_ESTIMATOR_MAP", ())
    if estimator not in known and nearest(estimator.lower(), known) == "lipo":
        raise LipoSetupError(
            f"algorithm.adv_estimator={estimator}: no such estimator. Did you mean lipo?"
        )


def _lacks(module: ModuleType, *names: str) -> bool:
    """Whether a module that was just imported has not all of these; notes those for the check."""
    missing = [f"{module.__name__}.{name}" for name in names if not hasattr(module, name)]
    _lacking.extend(missing)
    return bool(missing)


def patch_core_algos(core_algos: Any) -> None:
    """Add LIPO to the names and to the registry of estimators.

    Raises:
        LipoSetupError: another estimator has the name.
    """
    if _lacks(core_algos, "AdvantageEstimator", "ADV_ESTIMATOR_MAP", "register_adv_estimator"):
        return
    registered = core_algos.ADV_ESTIMATOR_MAP.get("lipo")
    if getattr(registered, "__wrapped__", registered) not in (None, compute_lipo_advantage):
        raise LipoSetupError(
            f"EasyR1 has another estimator named lipo, {registered.__module__}."
            f"{registered.__qualname__}. Rename it, or uninstall lipo_verl."
        )
    estimators = core_algos.AdvantageEstimator
    core_algos.AdvantageEstimator = Enum(  # type: ignore[misc]  # mypy wants a literal as its name
        estimators.__name__,
        {member.name: member.value for member in estimators} | {"LIPO": "lipo"},
        type=str,
        module=estimators.__module__,
        qualname=estimators.__qualname__,
    )
    core_algos.register_adv_estimator("lipo")(compute_lipo_advantage)


def patch_config(config: ModuleType) -> None:
    """Make `algorithm.lipo` a setting, and the launch check a part of `deep_post_init`."""

    algorithm_base: Any = config.AlgorithmConfig
    ppo_base: Any = config.PPOConfig

    @dataclass
    class AlgorithmConfig(algorithm_base):
        lipo: Any = None
        """settings of LIPO, see lipo_verl.config.LipoConfig"""

    @dataclass
    class PPOConfig(ppo_base):
        algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)

        def deep_post_init(self) -> None:
            settings = check_launch(self)
            if settings is not None:
                self.algorithm.lipo = settings.model_dump()  # for every logger: defaults as well
            else:
                contract.warn_of_unread(self.algorithm.lipo, self.algorithm.adv_estimator)
            super().deep_post_init()

    for patched in AlgorithmConfig, PPOConfig:
        patched.__module__, patched.__qualname__ = config.__name__, patched.__name__
        setattr(config, patched.__name__, patched)


class _Rewards:
    """The trainer's handle of its reward manager, that keeps what was said of the last batch.

    Args:
        manager: Ray's handle.
        at_once: the trainer drops and reorders samples after it has their rewards (online
            filtering): the accuracy goes into the batch, to stay beside its sample.
    """

    def __init__(self, manager: Any, at_once: bool) -> None:
        self._manager, self._at_once = manager, at_once
        self.compute_reward = self

    def remote(self, batch: Any) -> Any:
        _process.rewards = self._manager.compute_reward.remote(batch)
        if self._at_once and (accuracy := _named_accuracy(len(batch))) is not None:
            batch.non_tensor_batch[_ACCURACY_COLUMN] = accuracy
        return _process.rewards


_ACCURACY_COLUMN = "lipo_verl.accuracy"


def _named_accuracy(size: int) -> np.ndarray | None:
    """(B,) float64, the accuracy that the rewards of the last batch name; None where not all of its
    `size` samples have one."""
    if _process.rewards is None:
        return None
    import ray

    _, parts = ray.get(_process.rewards)
    named = contract.accuracy_of(parts)
    return named.astype(np.float64) if named is not None and len(named) == size else None


def patch_ray_trainer(ray_trainer: Any) -> None:
    """Hand the settings from the trainer to the estimator, and the metrics to the trainer."""
    if _lacks(ray_trainer, "RayPPOTrainer", "compute_data_metrics", "compute_advantage"):
        return
    init = ray_trainer.RayPPOTrainer.__init__

    @functools.wraps(init)
    def init_and_lipo(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        settings = check_launch(config)
        init(self, config, *args, **kwargs)
        _process.settings, _process.run = settings, Run()
        if settings is not None:
            if self.reward_fn is not None:
                self.reward_fn = _Rewards(self.reward_fn, config.algorithm.online_filtering)
            contract.announce(f"EasyR1 {verl.__version__}", settings)

    ray_trainer.RayPPOTrainer.__init__ = init_and_lipo
    compute_advantage = ray_trainer.compute_advantage

    @functools.wraps(compute_advantage)
    def compute_advantage_by_accuracy(data: Any, *args: Any, **kwargs: Any) -> Any:
        beside = data.non_tensor_batch.pop(_ACCURACY_COLUMN, None)
        _process.accuracy = _named_accuracy(len(data)) if beside is None else beside
        try:
            return compute_advantage(data, *args, **kwargs)
        finally:
            _process.accuracy = _process.rewards = None

    ray_trainer.compute_advantage = compute_advantage_by_accuracy
    compute_data_metrics = ray_trainer.compute_data_metrics

    @functools.wraps(compute_data_metrics)
    def compute_data_and_lipo_metrics(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return compute_data_metrics(*args, **kwargs) | _process.run.metrics()

    ray_trainer.compute_data_metrics = compute_data_and_lipo_metrics
