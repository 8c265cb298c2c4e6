"""LIPO inside verl. It is loaded at `import verl`, in every process, by `lipo_verl.hook`;
from 0.9 on it is verl's entry point for plug-ins as well.

What it touches in verl, each where there is one; "all" is 0.5.0 to 0.10.0.dev:

- `core_algos.register_adv_est("lipo")` (all): verl's own registry.
- `hydra.main` (all) and `verl.utils.config.validate_config` (from 0.6, up to 0.7 inside Ray)
  are wrapped, so that a wrong setting, and a verl in which LIPO does not work, stop the run before
  Ray starts, and LIPO learns the response budget. Where neither was called, the first advantage
  makes up for it. Goes away when verl lets an estimator check its settings.
- `ray_trainer.compute_advantage` (all) is wrapped, because an estimator sees neither the parts
  of the reward nor the attention mask. Goes away when verl hands it the batch.
- `ray_trainer.RayPPOTrainer.__init__` (0.5) is wrapped, because it refuses estimators that it
  does not know. Goes away with 0.5.
- `PPOTrainer._compute_advantage` of the v1 trainer (from 0.9; in 0.8 of `main_ppo_sync`) is
  wrapped, to bring the parts of the reward there as well;
  `compute_advantage_for_multi_trajectories`, because verl narrows a session of several outputs to
  its last one for GRPO alone. 0.8 runs that program as `__main__`, which no import hook sees: it
  is patched when its main begins. Goes away when verl does so for every estimator.
- `replay_buffer` of the v1 trainer (from 0.9): see `lipo_verl.rewards.stop`.
- `verl.trainer.ppo.metric_utils.compute_data_metrics` (all) is wrapped, so that `lipo/...` and,
  with any estimator, `reward/...` reach the ordinary logger. Goes away when an estimator may
  return metrics, and when verl logs the reward's parts in training.

A run that asks for LIPO is refused in a verl that lacks what LIPO cannot do without, or fails the
trial of `lipo_verl.probe`. An import of verl's own modules must not fail because of LIPO, and
verl only logs an exception of a plug-in at debug level, so nothing here may raise by accident.
"""

import functools
import importlib
import inspect
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import verl
from numpy import ndarray
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from lipo_verl import contract, probe
from lipo_verl.batch import reaches, token_advantages
from lipo_verl.config import LipoConfig, LipoSetupError
from lipo_verl.contract import ACCURACY, MOST_KEPT, Launch, Run
from lipo_verl.import_hook import after_import
from lipo_verl.metrics import reward_metrics
from lipo_verl.rewards import stop

logger = logging.getLogger(__name__)

_lacking: list[str] = []
"""What keeps LIPO from working in this verl, each a sentence's end after "verl"."""

_run = Run()
"""One process, one trainer; asynchronous ones compute advantages several times a step."""

_groups = _run.groups

_parts: deque[dict[str, ndarray]] = deque(maxlen=MOST_KEPT)
"""The parts of their rewards, a batch each."""

_batch: list[Any] = []
"""The batch that verl's `compute_advantage` works on."""

_parsed: list[tuple[Any, LipoConfig]] = []
"""The `algorithm` section read last, and its settings: a run hands over one object."""

_columns: dict[str, ndarray] = {}
"""What the v1 trainer's batch tells of each response, while it computes advantages."""

_LENGTHS, _TRUNCATED = "lipo_verl.lengths", "lipo_verl.truncated"
_FINISH_REASONS = "finish_reason", "stop_reason"
_KNOWN_REASONS = "length", "stop"


def compute_lipo_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: ndarray | None = None,
    config: Any = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """verl's interface of an advantage estimator.

    Args:
        token_level_rewards, response_mask: (B, T), see `lipo_verl.batch.token_advantages`.
        index: (B,) the uid of each response's prompt.
        config: verl's `algorithm` section.

    Returns:
        (B, T) advantages and, equal to them, returns.

    Raises:
        ValueError: a score is not finite.
        LipoConfigError: a setting is wrong.
        LipoSetupError: `check_launch` refuses the launch, or uids or settings are missing.
    """
    settings = _settings(config)
    if index is None:
        raise LipoSetupError(
            "LIPO compares the responses to one prompt, but this batch does not say which those "
            'are. Set data.non_tensor_batch["uid"], one value per prompt, before '
            "compute_advantage; an estimator called directly takes it as index."
        )
    known = _known(_batch[-1], response_mask, settings) if _batch else {}
    advantages = _run.advantages(token_level_rewards, response_mask, index, settings, **known)
    return advantages, advantages


def _known(data: Any, response_mask: Tensor, settings: LipoConfig) -> dict[str, Any]:
    """What verl's batch tells beyond rewards and mask, as arguments of `token_advantages`."""
    columns, parts = data.non_tensor_batch, _reward_parts(data)
    if (truncated := columns.get(_TRUNCATED)) is None:
        truncated = _truncated(data, response_mask, settings)
    return {
        "lengths": columns.get(_LENGTHS),
        "truncated": truncated,
        "accuracy": contract.accuracy_of(parts),
    }


def _truncated(data: Any, response_mask: Tensor, settings: LipoConfig) -> ndarray:
    """(B,) bool, the responses that were cut: by their finish reasons, else by the budget, against
    which the tokens of tools count as well."""
    whole = data.batch.get("attention_mask", None)
    whole = response_mask if whole is None else whole[:, whole.shape[1] - response_mask.shape[1] :]
    truncated = reaches(settings.response_budget, whole)
    for name in _FINISH_REASONS:
        if name in data.non_tensor_batch:
            reasons = data.non_tensor_batch[name].astype(object)
            truncated = (reasons == "length") | truncated & (reasons != "stop")
    return truncated


def _reward_parts(data: Any) -> dict[str, ndarray]:
    """{name: (B,) float64} of the numbers that the reward function gave each response, NaN where
    it gave none; only its accuracy where verl does not say which columns are the reward's."""
    names = data.meta_info.get("reward_extra_keys", ACCURACY)
    columns = {name: data.non_tensor_batch.get(name) for name in names}
    return {name: _numbers(column) for name, column in columns.items() if column is not None}


def _numbers(column: ndarray) -> ndarray:
    """(B,) float64, NaN for what is no number."""
    if column.ndim == 1 and column.dtype.kind in "biuf":
        return column.astype(np.float64)
    numeric = bool | int | float | np.number | np.bool_
    return np.array([float(x) if isinstance(x, numeric) else np.nan for x in column], np.float64)


def last_outputs(batch_keys: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which rows decide where an agent's session gave several outputs: the last of each session.

    Args:
        batch_keys: B keys `{uid}_{session}_{output}`, as verl's trainer names its rows.

    Returns:
        The S deciding rows, and for each of the B rows its session's place among them.
    """
    sessions, _, outputs = zip(*(key.rpartition("_") for key in batch_keys), strict=True)
    last = {}
    for row in sorted(range(len(batch_keys)), key=lambda row: int(outputs[row])):
        last[sessions[row]] = row
    place = {session: k for k, session in enumerate(last)}
    return list(last.values()), [place[session] for session in sessions]


def _on_last_outputs(compute_advantage: Any) -> Any:
    """verl's `compute_advantage_for_multi_trajectories` that treats LIPO as it treats GRPO; a
    session is as long as all that it generated, and cut where one of its outputs is."""

    @functools.wraps(compute_advantage)
    def on_last_outputs(data: Any, batch_keys: Sequence[str], adv_estimator: Any, **rest: Any):
        if _columns:
            data.non_tensor_batch = _columns | data.non_tensor_batch
            data.meta_info["reward_extra_keys"] = _columns.keys() - set(_FINISH_REASONS)
        rows, places = last_outputs(batch_keys)
        if adv_estimator != "lipo" or len(rows) == len(batch_keys):
            return compute_advantage(data, batch_keys, adv_estimator, **rest)
        mask = data.batch["response_mask"]
        cut = _truncated(data, mask, _settings(rest.get("config")))
        last = data.select_idxs(rows)
        last.non_tensor_batch[_TRUNCATED] = np.bincount(places, cut) > 0
        last.non_tensor_batch[_LENGTHS] = np.bincount(places, mask.sum(1).cpu().numpy())
        last = compute_advantage(last, [batch_keys[row] for row in rows], adv_estimator, **rest)
        first_token = last.batch["response_mask"].int().argmax(1, keepdim=True)
        per_session = last.batch["advantages"].gather(1, first_token)
        data.batch["advantages"] = data.batch["returns"] = per_session[places] * mask
        return data

    return on_last_outputs


def _with_columns(compute_advantage: Any) -> Any:
    """The v1 trainer's `_compute_advantage` that knows what the rollout tells of each response:
    the parts of its reward, and whether it was cut."""

    @functools.wraps(compute_advantage)
    def with_columns(self: Any, batch: Any, metrics: dict) -> Any:
        try:
            _columns.update(_columns_of(batch, self.config.actor_rollout_ref.rollout))
        except Exception as error:  # a run can do without, with any estimator
            contract.warn_once(
                "This verl keeps elsewhere what its rollout tells of each response: neither the "
                f"reward's parts nor cut responses are known ({type(error).__name__}: {error})"
            )
        try:
            return compute_advantage(self, batch, metrics)
        finally:
            _columns.clear()

    return with_columns


def _columns_of(batch: Any, rollout: Any) -> dict[str, ndarray]:
    """{name: (B,)} the numbers of the reward function, and `finish_reason`: "length" where a
    limit of verl's was reached, unless the agent loop left "length" or "stop" in its extra fields.

    Args:
        batch: the v1 trainer's keys and tags.
    """
    import transfer_queue

    real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding")]
    told = transfer_queue.kv_batch_get(
        keys=[batch.keys[row] for row in real],
        partition_id=batch.partition_id,
        select_fields=["extra_fields"],
    )
    told = told.pop("extra_fields").tolist()
    parts = [fields.get("reward_extra_info") or {} for fields in told]
    columns = {name: np.full(len(batch.keys), np.nan) for name in dict.fromkeys(chain(*parts))}
    for name, column in columns.items():
        column[real] = _numbers(np.array([of_row.get(name) for of_row in parts], object))
    longest = rollout.prompt_length + rollout.response_length
    longest = min(longest, rollout.get("max_model_len") or longest)
    reasons = np.full(len(batch.keys), None)
    for row, fields in zip(real, told, strict=True):
        tag = batch.tags[row]
        cut = tag.get("response_len", 0) >= rollout.response_length
        cut = cut or tag.get("seq_len", 0) >= longest
        given = (reason for reason in map(fields.get, _FINISH_REASONS) if reason in _KNOWN_REASONS)
        reasons[row] = next(given, "length" if cut else None)
    return columns | {"finish_reason": reasons}


def _with_batch(compute_advantage: Any) -> Any:
    """verl's `compute_advantage` that lets the estimator see the batch, and keeps the parts of
    its rewards for the metrics, whatever the estimator."""

    @functools.wraps(compute_advantage)
    def with_batch(data: Any, *args: Any, **kwargs: Any) -> Any:
        _parts.append(_reward_parts(data))
        _batch.append(data)
        try:
            return compute_advantage(data, *args, **kwargs)
        finally:
            _batch.pop()

    return with_batch


def _settings(algorithm: Any) -> LipoConfig:
    """The settings in `algorithm.lipo`; the launch is checked, and they are announced, when they
    are read for the first time."""
    if algorithm is None:
        raise LipoSetupError(
            "LIPO's settings are in verl's algorithm section, and compute_advantage was called "
            "without it. Pass config=config.algorithm, or config={} for the defaults."
        )
    if not _parsed or _parsed[0][0] is not algorithm:
        if isinstance(algorithm, DictConfig) and "actor_rollout_ref" in algorithm._get_root():
            _launch(algorithm._get_root())
        settings = LipoConfig.parse(algorithm.get("lipo"))
        contract.announce(f"verl {verl.__version__}", settings)
        _run.memory.state = None
        _parsed[:] = [(algorithm, settings)]
    return _parsed[0][1]


def check_launch(config: Any) -> LipoConfig:
    """The settings of a launch; see `lipo_verl.contract.check` for what is refused.

    Args:
        config: verl's whole configuration.
    """
    algorithm, rollout = config.algorithm, config.actor_rollout_ref.rollout
    kl = empties = drops = None
    if algorithm.use_kl_in_reward:
        kl = (
            "algorithm.use_kl_in_reward=True hands it scores minus KL. Set "
            "algorithm.use_kl_in_reward=False, and actor_rollout_ref.actor.use_kl_loss=True to "
            "keep the KL term in the loss."
        )
    correction = algorithm.get("rollout_correction") or {}
    for key in "rollout_rs", "rollout_token_veto_threshold":
        if correction.get(key) is not None and not correction.get("bypass_mode"):
            empties = (
                f"algorithm.rollout_correction.{key}={correction[key]} empties the mask of "
                "rejected responses before LIPO can count their tokens. Set it to null; importance "
                "weights (rollout_is) are fine, and so is bypass_mode=True, where the loss rejects."
            )
    if (algorithm.get("filter_groups") or {}).get("enable"):
        drops = "algorithm.filter_groups.enable=True"
    return contract.check(
        Launch(
            section=algorithm.get("lipo"),
            responses=("actor_rollout_ref.rollout.n", rollout.n),
            budget=rollout.response_length,
            kl_in_rewards=kl,
            empties_masks=empties,
            drops_right_groups=drops,
            ignored=[*_ignored(algorithm)],
        )
    )


def _ignored(algorithm: Any) -> Iterator[str]:
    if not algorithm.get("norm_adv_by_std_in_grpo", True):
        yield (
            "algorithm.norm_adv_by_std_in_grpo=False is not read by LIPO. "
            "algorithm.lipo.normalization=none divides by no deviation; std_floor limits what "
            "dividing does."
        )
    for key in "gdpo_reward_keys", "gdpo_reward_weights":
        if algorithm.get(key):
            yield f"algorithm.{key} is not read by LIPO: it compares the whole score."


def _launch(config: Any) -> None:
    """Check a launch, and write the response budget where the user did not, since trainers may
    hand over their `algorithm` section alone; config: verl's whole configuration."""
    estimator = OmegaConf.select(config, "algorithm.adv_estimator")
    if estimator != "lipo":
        contract.warn_of_unread(OmegaConf.select(config, "algorithm.lipo"), estimator)
        return
    budget = {"response_budget": check_launch(config).response_budget}
    with open_dict(config.algorithm):
        config.algorithm.lipo = OmegaConf.merge(config.algorithm.get("lipo") or {}, budget)


def _start(config: Any) -> None:
    """What comes before a run's first process; config: as of `check_launch`.

    Raises LipoSetupError also for a verl in which LIPO does not work.
    """
    if OmegaConf.select(config, "algorithm.adv_estimator") == "lipo":
        _refuse_other_verls()
    _launch(config)


@functools.cache
def _refuse_other_verls() -> None:
    """Try LIPO in this verl: LipoSetupError where it fails, a warning where it was not tested."""
    faults = _lacking or [*filter(None, [_trial()])]
    if faults:
        raise LipoSetupError(
            f"LIPO does not work in verl {verl.__version__}, which {'; which '.join(faults)}. "
            f"lipo_verl was tested with {probe.TESTED_TEXT}: install one of them, or, where yours "
            "is newer, a newer lipo_verl."
        )
    if not verl.__version__.startswith(probe.TESTED):
        logger.warning(
            "lipo_verl was tested with %s, and this is verl %s. It passed a trial: watch the first "
            "steps.",
            probe.TESTED_TEXT,
            verl.__version__,
        )


def _trial() -> str | None:
    """What is wrong with LIPO in this verl, as of `probe.fault`."""
    try:
        ray_trainer = importlib.import_module("verl.trainer.ppo.ray_trainer")
    except Exception as error:
        return f"cannot import its ray_trainer ({type(error).__name__}: {error})"
    if _lacking:  # what the hooks found in it
        return _lacking[0]
    settings = LipoConfig()
    algorithm = OmegaConf.create({"adv_estimator": "lipo", "lipo": {}})
    _parsed[:] = [(algorithm, settings)]  # not to be announced
    try:
        return probe.fault(
            ray_trainer.compute_advantage,
            "lipo",
            algorithm,
            lambda rewards, mask, uids: token_advantages(rewards, mask, uids, settings)[0],
        )
    finally:
        _parsed.clear()
        _groups.clear()
        _parts.clear()


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    """Replace `owner.name` by what `wrapper` makes of it: once, and where there is one."""
    function = getattr(owner, name, None)
    if function is not None and not hasattr(function, "lipo_verl"):
        wrapped = wrapper(function)
        wrapped.lipo_verl = True
        setattr(owner, name, wrapped)


def _with_start(validate_config: Any) -> Any:
    """verl's `validate_config` with LIPO's checks before it."""

    @functools.wraps(validate_config)
    def validate_config_and_lipo(config: Any, *args: Any, **kwargs: Any) -> None:
        _start(config)
        validate_config(config, *args, **kwargs)

    return validate_config_and_lipo


def _main_with_start(main: Any) -> Any:
    """`hydra.main` whose programs begin with LIPO's checks, if they have an estimator to set."""

    @functools.wraps(main)
    def main_and_lipo(*args: Any, **kwargs: Any) -> Any:
        decorate = main(*args, **kwargs)

        def decorate_checked(program: Any) -> Any:
            @functools.wraps(program)
            def start(config: Any) -> Any:
                if isinstance(config, DictConfig):
                    _start(config)
                _narrow_sessions(sys.modules.get(program.__module__))
                return program(config)

            return decorate(start)

        return decorate_checked

    return main_and_lipo


def _with_lipo_metrics(compute_data_metrics: Any) -> Any:
    @functools.wraps(compute_data_metrics)
    def compute_data_and_lipo_metrics(*args: Any, **kwargs: Any) -> dict[str, Any]:
        metrics = compute_data_metrics(*args, **kwargs) | reward_metrics(_parts) | _run.metrics()
        _parts.clear()
        return metrics

    return compute_data_and_lipo_metrics


def _as_grpo(init: Any) -> Any:
    """verl 0.5's `RayPPOTrainer.__init__`, which refuses estimators that it does not know."""

    @functools.wraps(init)
    def init_as_grpo(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        estimator = config.algorithm.adv_estimator
        config.algorithm.adv_estimator = "grpo" if estimator == "lipo" else estimator
        try:
            init(self, config, *args, **kwargs)
        finally:
            config.algorithm.adv_estimator = estimator

    return init_as_grpo


def _add_estimator(core_algos: ModuleType) -> None:
    missing = [
        name
        for name in ("register_adv_est", "ADV_ESTIMATOR_REGISTRY")
        if not hasattr(core_algos, name)
    ]
    if missing:
        _lacking.extend(f"has no {core_algos.__name__}.{name}" for name in missing)
        return
    other = core_algos.ADV_ESTIMATOR_REGISTRY.get("lipo", compute_lipo_advantage)
    if other is not compute_lipo_advantage:
        _lacking.append(
            f"has another estimator named lipo, {other.__module__}.{other.__qualname__}"
        )
        return
    core_algos.register_adv_est("lipo")(compute_lipo_advantage)


def _patch_ray_trainer(ray_trainer: ModuleType) -> None:
    compute_advantage = getattr(ray_trainer, "compute_advantage", None)
    if compute_advantage is None:
        _lacking.append(f"has no {ray_trainer.__name__}.compute_advantage")
    elif "multi_turn" in inspect.signature(compute_advantage).parameters:  # up to 0.4
        _lacking.append("hands estimators other than its own the tokens of tools as well")
    else:
        _wrap(ray_trainer, "compute_advantage", _with_batch)
        if hasattr(ray_trainer, "RayPPOTrainer") and not hasattr(ray_trainer, "need_critic"):
            _wrap(ray_trainer.RayPPOTrainer, "__init__", _as_grpo)


def _narrow_sessions(trainer: ModuleType | None) -> None:
    """trainer: the module of a trainer on TransferQueue; any other is left as it is."""
    if hasattr(trainer, "compute_advantage_for_multi_trajectories"):
        _wrap(trainer, "compute_advantage_for_multi_trajectories", _on_last_outputs)
        _wrap(getattr(trainer, "PPOTrainer", None), "_compute_advantage", _with_columns)


def _register() -> None:
    """Doing it again changes nothing."""
    after_import("hydra", lambda module: _wrap(module, "main", _main_with_start))
    after_import("verl.utils.config", lambda module: _wrap(module, "validate_config", _with_start))
    after_import(
        "verl.trainer.ppo.metric_utils",
        lambda module: _wrap(module, "compute_data_metrics", _with_lipo_metrics),
    )
    after_import("verl.trainer.ppo.core_algos", _add_estimator)
    after_import("verl.trainer.ppo.ray_trainer", _patch_ray_trainer)
    after_import("verl.trainer.ppo.v1.trainer_base", _narrow_sessions)
    after_import("verl.trainer.main_ppo_sync", _narrow_sessions)
    after_import("verl.trainer.ppo.v1.replay_buffer", stop.watch)


_register()
if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    try:
        from lipo_verl.cpu import verl_patches

        verl_patches.apply()
    except Exception as error:
        logger.exception("lipo_verl could not make verl %s run on the CPU", verl.__version__)
        _lacking.append(f"does not run on the CPU (VERL_PLATFORM=cpu: {error})")
