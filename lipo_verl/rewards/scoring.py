"""From a response and its truth to a score with named parts."""

import functools
import importlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lipo_verl.errors import did_you_mean
from lipo_verl.rewards import composite, exact, extract, pool, templates, truths
from lipo_verl.rewards.errors import (
    RewardErrorRate,
    RewardSetupError,
    TruthError,
    WorkerFailed,
    WorkerTimeout,
)
from lipo_verl.rewards.health import Health, Sample, Silence

Task = Literal["exact", "choice", "relaxed", "ocr", "anls", "math"]
TASKS: tuple[str, ...] = get_args(Task)

_SCORERS = {
    "exact": "exact:score",
    "choice": "choice:score",
    "relaxed": "relaxed:score",
    "ocr": "ocr:similarity",
    "anls": "ocr:anls",
}
_MATH = "lipo_verl.rewards.maths:equivalent"


class RewardConfig(BaseModel):
    """The settings of a reward: keyword arguments of the frameworks' entry functions. [ours]"""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: Task | None = Field(None, description="how answers are compared")
    tasks: dict[str, Task] = Field({}, description="data source to task, where data is mixed")
    extract: Literal["auto", "boxed", "tags", "marker", "whole"] = Field(
        "auto", description="where the final answer stands in a response"
    )
    template: Literal["none", "think_boxed", "think_answer"] = Field(
        "none", description="the form that the prompt asks for; none: no format reward"
    )
    think_in_prompt: bool = Field(
        False, description="the chat template opens <think>, so that responses start behind it"
    )
    format_weight: float = Field(
        composite.FORMAT_WEIGHT, ge=0, le=1, description="accuracy gets the rest"
    )
    timeout: float = Field(5.0, gt=0, description="seconds for one comparison of task=math")
    workers: int = Field(4, ge=1, description="most processes for task=math, per reward process")
    error_limit: float = Field(
        0.2, ge=0, le=1, description="stop above this share of samples that no answer could score"
    )

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> "RewardConfig":
        """The settings, defaults for what is left out.

        Raises:
            RewardSetupError: some are wrong; lists every such setting with what is allowed.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise RewardSetupError("\n".join(map(cls._explain, error.errors()))) from None

    @classmethod
    def _explain(cls, error: Any) -> str:
        key = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            return f"Reward setting {key}: no such setting.{_similar(key, cls.model_fields)}"
        where = ".".join(map(str, error["loc"]))
        hint = _similar(error["input"], TASKS) if key in ("task", "tasks") else ""
        return (
            f"Reward setting {where}={error['input']!r}: {error['msg']}.{hint} "
            f"{key}: {cls.model_fields[key].description}."
        )

    def task_of(self, data_source: str | None, extra_info: Mapping[str, Any] | None) -> str:
        """The task of a sample: `tasks[data_source]`, else `task`, else the sample's own
        `extra_info["reward_task"]`, else the last part of `data_source` if that is a task.

        Raises:
            RewardSetupError: none of them says it.
        """
        named = (extra_info or {}).get("reward_task")
        last = (data_source or "").rpartition("/")[2]
        task = self.tasks.get(data_source or "") or self.task or named or last
        if task in TASKS:
            return task
        if named is not None:
            raise RewardSetupError(
                f"extra_info['reward_task']={named!r} of data source {data_source!r} is no task."
                f"{_similar(named, TASKS)}"
            )
        raise RewardSetupError(
            f"Nothing says how to score data source {data_source!r}. Set the reward's keyword "
            "argument task, or tasks where it differs by data source (on a command line "
            f"'tasks={{{data_source}: TASK}}'), to one of: {', '.join(TASKS)}."
        )


def score_response(
    response: str | None,
    ground_truth: Any,
    task: str,
    config: RewardConfig,
    data_source: str | None = None,
) -> dict[str, float]:
    """The score of one response, and its parts; the same keys always.

    Args:
        response: None counts as one without an answer.
        ground_truth: a text or number, or a sequence of them, of which the best counts.
        task: a name in TASKS.
        config: the settings.
        data_source: where the sample is from, for messages.

    Returns:
        score: accuracy and format by their weights; accuracy alone with template=none.
        accuracy: the task's score of the answer, in [0, 1].
        format: 1.0 where the template is kept, or is none.
        answer_found: 0.0 where the response has no final answer; accuracy is 0 then.
        reward_error: 1.0 where the sample could not be scored; accuracy is 0 then.
        reward_timeout: 1.0 where that was a timeout.

    Raises:
        RewardSetupError: scoring is impossible as configured or installed.
        RewardErrorRate: more than `config.error_limit` of the samples could not be scored.
    """
    health = shared_health(config.error_limit)
    health.check()
    response = "<think>" * config.think_in_prompt + (response or "")
    sample = Sample(data_source, response, ground_truth)
    answer = extract.final_answer(response, config.extract)
    accuracy, error = 0.0, None
    try:
        wanted = truths.texts(ground_truth)
        if answer is not None:
            accuracy = _accuracy(answer, wanted, task, config)
    except (RewardSetupError, RewardErrorRate):
        raise
    except Exception as caught:
        error = caught
        by_answer = isinstance(caught, WorkerFailed) and _comparable(
            tuple(wanted), config.workers, config.timeout
        )
        health.failed(caught, sample, by_answer=by_answer)
    else:
        health.succeeded()
    kept, opened, score = 1.0, False, accuracy
    if config.template != "none":
        kept = templates.score(response, config.template)
        score = composite.combine(accuracy, kept, config.format_weight)
        opened = not kept and bool(templates.score(f"<think>{response}", config.template))
    _shared_silence(os.getpid(), config.extract, config.template).saw(
        sample, found=answer is not None, kept=bool(kept), opened=opened
    )
    return {
        "score": score,
        "accuracy": accuracy,
        "format": kept,
        "answer_found": float(answer is not None),
        "reward_error": float(error is not None),
        "reward_timeout": float(isinstance(error, WorkerTimeout)),
    }


_health: dict[tuple[int, float], Health] = {}
_health_lock = threading.Lock()


def shared_health(limit: float) -> Health:
    """This process's count of errors for an error limit."""
    with _health_lock:
        return _health.setdefault((os.getpid(), limit), Health(limit))


@functools.cache
def _shared_silence(process: int, extract: str, template: str) -> Silence:
    return Silence(extract, template)


def _accuracy(answer: str, wanted: list[str], task: str, config: RewardConfig) -> float:
    """The best of the scores against each truth; what one of them raises where none is scored."""
    if task == "math":
        if any(exact.score(answer, truth) for truth in wanted):
            return 1.0  # most right answers end here, without a process
        scorer = pool.shared_pool(_MATH, size=config.workers, timeout=config.timeout).run
    else:
        scorer = _scorer(task)
    best, failure = 0.0, None
    for truth in wanted:
        try:
            best = max(best, float(scorer(answer, truth)))
        except (TruthError, WorkerFailed) as error:
            failure = failure or error
    if failure is not None and not best:
        raise failure
    return best


@functools.lru_cache(4096)
def _comparable(wanted: tuple[str, ...], workers: int, timeout: float) -> bool:
    """Whether the truths can be compared with some answer, so that another failed by itself."""
    processes = pool.shared_pool(_MATH, size=workers, timeout=timeout)
    try:
        for truth in wanted:
            processes.run("0", truth)
    except WorkerFailed:
        return False
    return True


@functools.cache
def _scorer(task: str) -> Callable[[str, str], float]:
    module, function = _SCORERS[task].split(":")
    try:
        return getattr(importlib.import_module(f"lipo_verl.rewards.{module}"), function)
    except ImportError as error:
        raise RewardSetupError(
            f"task={task} needs {error.name}: pip install '.[rewards]' in a clone"
        ) from error


def _similar(name: Any, known: Any) -> str:
    return f"{did_you_mean(name, known)} Known: {', '.join(known)}."
