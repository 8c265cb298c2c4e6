"""LIPO inside verl. verl imports this module in every process: it is its entry point for plug-ins.

What it touches in verl, each seen in 0.9.1:

- ``core_algos.register_adv_est("lipo")``: verl's own registry.
- ``verl.utils.device.auto_set_device``, which every entry point calls first, and
  ``verl.utils.config.validate_config``, which not all of them call, are wrapped, so that a wrong
  setting stops the run before Ray starts, and LIPO learns the response budget. Where neither was
  called, the first advantage makes up for it. Goes away when verl lets an estimator check its
  settings.
- ``ray_trainer.compute_advantage``: is wrapped, because an estimator sees neither the parts of the
  reward nor the attention mask. Goes away when verl hands it the batch.
- ``PPOTrainer._compute_advantage`` of the v1 trainer is wrapped, to bring the parts of the reward
  there as well; ``compute_advantage_for_multi_trajectories``, because verl narrows a session of
  several outputs to its last one for GRPO alone. Goes away when verl does so for every estimator.
- ``replay_buffer`` of the v1 trainer: see :mod:`lipo_verl.rewards.stop`.
- ``verl.trainer.ppo.metric_utils.compute_data_metrics`` is wrapped, so that ``lipo/...`` and, with
  any estimator, ``reward/...`` reach the ordinary logger. Goes away when an estimator may return
  metrics, and when verl logs the reward's parts in training.

An unknown version of verl is left as it is, and a run that asks for LIPO there is refused.
verl only logs an exception of a plug-in at debug level, so nothing here may raise by accident.
"""

import functools
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import verl
from numpy import ndarray
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from lipo_verl.batch import ACCURACY, Group, reaches, token_advantages
from lipo_verl.config import LipoConfig, LipoSetupError
from lipo_verl.import_hook import after_import
from lipo_verl.metrics import MOST_KEPT, CollapseAlarm, lipo_metrics, reward_metrics
from lipo_verl.rewards import stop

logger = logging.getLogger(__name__)

KNOWN_VERSIONS = ("0.9.",)

_groups: deque[Group] = deque(maxlen=MOST_KEPT)
"""The groups of the batches whose metrics were not taken yet, the newest first; asynchronous
trainers compute advantages several times a step. One process, one trainer."""

_parts: deque[dict[str, ndarray]] = deque(maxlen=MOST_KEPT)
"""The parts of their rewards, a batch each."""

_alarm = CollapseAlarm()

_batch: list[Any] = []
"""The batch that verl's ``compute_advantage`` works on."""

_parsed: list[tuple[Any, LipoConfig]] = []
"""The ``algorithm`` section read last, and its settings: a run hands over one object."""

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

    token_level_rewards: (B, T) any type, their sum is the rule's score of the response
    response_mask:       (B, T) any type, 1 on tokens that the policy generated
    index:               (B,) the uid of each response's prompt
    config:              verl's ``algorithm`` section
    returns:             (B, T) advantages and, equal to them, returns

    Raises ValueError for a score that is not finite, LipoConfigError for a wrong setting, and
    LipoSetupError for a launch that :func:`check_launch` refuses, or where uids or settings are
    missing.
    """
    settings = _settings(config)
    if index is None:
        raise LipoSetupError(
            "LIPO compares the responses to one prompt, but this batch does not say which those "
            'are. Set data.non_tensor_batch["uid"], one value per prompt, before '
            "compute_advantage; an estimator called directly takes it as index."
        )
    known = _known(_batch[-1], response_mask, settings) if _batch else {}
    advantages, groups = token_advantages(
        token_level_rewards, response_mask, index, settings, **known
    )
    _groups.extendleft(reversed(groups))
    return advantages, advantages


def _known(data: Any, response_mask: Tensor, settings: LipoConfig) -> dict[str, Any]:
    """What verl's batch tells beyond rewards and mask, as arguments of ``token_advantages``."""
    columns, parts = data.non_tensor_batch, _reward_parts(data)
    if (truncated := columns.get(_TRUNCATED)) is None:
        truncated = _truncated(data, response_mask, settings)
    return {
        "lengths": columns.get(_LENGTHS),
        "truncated": truncated,
        "accuracy": next((parts[name] for name in ACCURACY if name in parts), None),
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
    """verl's ``compute_advantage_for_multi_trajectories`` that treats LIPO as it treats GRPO; a
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
    """The v1 trainer's ``_compute_advantage`` that knows what the rollout tells of each response:
    the parts of its reward, and whether it was cut."""

    @functools.wraps(compute_advantage)
    def with_columns(self: Any, batch: Any, metrics: dict) -> Any:
        _columns.update(_columns_of(batch, self.config.actor_rollout_ref.rollout))
        try:
            return compute_advantage(self, batch, metrics)
        finally:
            _columns.clear()

    return with_columns


def _columns_of(batch: Any, rollout: Any) -> dict[str, ndarray]:
    """{name: (B,)} the numbers of the reward function, and ``finish_reason``: "length" where a
    limit of verl's was reached, unless the agent loop left "length" or "stop" in its extra fields.

    batch: the v1 trainer's keys and tags
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
    """verl's ``compute_advantage`` that lets the estimator see the batch, and keeps the parts of
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
    """The settings in ``algorithm.lipo``; the launch is checked, and they are announced, when they
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
        print(
            f"LIPO is live in process {os.getpid()} (verl {verl.__version__}): {settings}",
            flush=True,
        )
        _parsed[:] = [(algorithm, settings)]
    return _parsed[0][1]


def check_launch(config: Any) -> None:
    """Refuses a launch of LIPO that could only fail, or mislead, later; warns of settings that do
    nothing under LIPO, or undo it.

    config: verl's whole configuration. Raises LipoSetupError or LipoConfigError.
    """
    algorithm = config.algorithm
    LipoConfig.parse(algorithm.get("lipo"))
    n = config.actor_rollout_ref.rollout.n
    if n < 2:
        raise LipoSetupError(
            f"LIPO compares the responses to one prompt, but actor_rollout_ref.rollout.n={n}. "
            "Set it to 2 or more (5 to 16 are usual)."
        )
    if algorithm.use_kl_in_reward:
        raise LipoSetupError(
            "LIPO compares rule scores, but algorithm.use_kl_in_reward=True hands it scores minus "
            "KL. Set algorithm.use_kl_in_reward=False, and "
            "actor_rollout_ref.actor.use_kl_loss=True to keep the KL term in the loss."
        )
    correction = algorithm.get("rollout_correction") or {}
    for key in "rollout_rs", "rollout_token_veto_threshold":
        if correction.get(key) is not None and not correction.get("bypass_mode"):
            raise LipoSetupError(
                f"algorithm.rollout_correction.{key}={correction[key]} empties the mask of "
                "rejected responses before LIPO can count their tokens. Set it to null; importance "
                "weights (rollout_is) are fine, and so is bypass_mode=True, where the loss rejects."
            )
    for text in _without_effect(algorithm):
        _warn_once(text)


def _without_effect(algorithm: Any) -> Iterator[str]:
    if not algorithm.get("norm_adv_by_std_in_grpo", True):
        yield (
            "algorithm.norm_adv_by_std_in_grpo=False is not read by LIPO: it divides by its "
            "weighted deviation all the same. algorithm.lipo.std_floor limits what that does."
        )
    if (algorithm.get("filter_groups") or {}).get("enable"):
        yield (
            "algorithm.filter_groups.enable=True drops the groups that are all right, the very "
            "ones that LIPO shortens. Set it to False."
        )
    for key in "gdpo_reward_keys", "gdpo_reward_weights":
        if algorithm.get(key):
            yield f"algorithm.{key} is not read by LIPO: it compares the whole score."


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


def _launch(config: Any) -> None:
    """Checks a launch, and hands the response budget over; config: as of :func:`check_launch`."""
    estimator = OmegaConf.select(config, "algorithm.adv_estimator")
    if estimator == "lipo":
        check_launch(config)
        _hand_over_budget(config)
    elif OmegaConf.select(config, "algorithm.lipo") is not None:
        _warn_once(
            f"algorithm.lipo is set, but algorithm.adv_estimator={estimator} does not read it"
        )


def _hand_over_budget(config: Any) -> None:
    """Writes ``algorithm.lipo.response_budget`` where the user did not, since trainers may hand
    over their ``algorithm`` section alone."""
    given = config.algorithm.get("lipo") or {}
    budget = {"response_budget": config.actor_rollout_ref.rollout.response_length}
    with open_dict(config.algorithm):
        config.algorithm.lipo = OmegaConf.merge(budget, given)


def _register() -> None:
    from verl.trainer.ppo import core_algos, metric_utils
    from verl.utils import config as verl_config
    from verl.utils import device

    known = verl.__version__.startswith(KNOWN_VERSIONS)
    validate_config = verl_config.validate_config
    auto_set_device = device.auto_set_device
    compute_data_metrics = metric_utils.compute_data_metrics

    @functools.wraps(validate_config)
    def validate_config_and_lipo(config: Any, *args: Any, **kwargs: Any) -> None:
        if config.algorithm.adv_estimator == "lipo" and not known:
            raise LipoSetupError(
                f"lipo_verl does not know verl {verl.__version__}; it was made for "
                f"{', '.join(v + 'x' for v in KNOWN_VERSIONS)}. Install a known version, or a "
                "newer lipo_verl."
            )
        _launch(config)
        validate_config(config, *args, **kwargs)

    @functools.wraps(auto_set_device)
    def auto_set_device_and_launch(config: Any) -> None:
        auto_set_device(config)
        if isinstance(config, DictConfig):  # of any program of verl's
            _launch(config)

    @functools.wraps(compute_data_metrics)
    def compute_data_and_lipo_metrics(*args: Any, **kwargs: Any) -> dict[str, Any]:
        metrics = compute_data_metrics(*args, **kwargs) | reward_metrics(_parts)
        if _groups:
            of_lipo = lipo_metrics(_groups)
            metrics.update(of_lipo, **_alarm(of_lipo))
        _groups.clear()
        _parts.clear()
        return metrics

    verl_config.validate_config = validate_config_and_lipo
    if known:
        device.auto_set_device = auto_set_device_and_launch
        metric_utils.compute_data_metrics = compute_data_and_lipo_metrics
        core_algos.register_adv_est("lipo")(compute_lipo_advantage)
        after_import("verl.trainer.ppo.ray_trainer", _show_batch)
        after_import("verl.trainer.ppo.v1.trainer_base", _narrow_sessions)
        after_import("verl.trainer.ppo.v1.replay_buffer", stop.watch)


def _show_batch(ray_trainer: Any) -> None:
    ray_trainer.compute_advantage = _with_batch(ray_trainer.compute_advantage)


def _narrow_sessions(trainer_base: Any) -> None:
    trainer_base.compute_advantage_for_multi_trajectories = _on_last_outputs(
        trainer_base.compute_advantage_for_multi_trajectories
    )
    cls = trainer_base.PPOTrainer
    cls._compute_advantage = _with_columns(cls._compute_advantage)


try:
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from lipo_verl.cpu import verl_patches

        verl_patches.apply()
    _register()
except Exception:
    logger.exception("lipo_verl could not register with verl %s", verl.__version__)
    raise
