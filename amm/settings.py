"""Base class of every set of settings, and validation whose errors name the allowed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from amm.errors import InputError, did_you_mean, shown


class Settings(BaseModel):
    """Frozen settings; unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_KINDS = {
    "dict_type": "keys and values",
    "tuple_type": "a list, such as [a, b]",
    "string_type": "text; put a number in quotes",
}
"""What pydantic's types of errors want, in words of YAML."""

AnySettings = TypeVar("AnySettings", bound=Settings)


def validated(model: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    """Build settings from a user's mapping.

    Args:
        model: the settings class.
        values: key → value, as read from YAML or passed in Python.
        where: what the mapping is, for the message ("merge.yaml", "parameters of method 'amm'").

    Raises:
        InputError: one line for each key or value that is wrong.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors()
        wrong = {problem["loc"][:n] for problem in problems for n in range(len(problem["loc"]))}
        lines = [
            _line(model, problem, where)
            for problem in problems
            if problem["type"] != "too_short" or problem["loc"] not in wrong
        ]
        raise InputError("\n".join(lines)) from None


def _line(model: type[Settings], problem: Mapping[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    given, value = problem["input"], shown(problem["input"])
    if problem["type"] == "extra_forbidden":
        *within, last = problem["loc"]
        return (
            f"{where}: unknown key '{key}'. {did_you_mean(last, _at(model, within).model_fields)}"
        )
    if problem["type"] == "missing":
        return f"{where}: the key '{key}' is missing; add it."
    if problem["type"] == "literal_error":
        return f"{where}: {key} can't be {value}. {did_you_mean(given, _choices(model, problem))}"
    if problem["type"] == "too_short":
        return f"{where}: {key} is empty; name at least {problem['ctx']['min_length']}."
    if problem["type"] in _KINDS:
        return f"{where}: {key} can't be {value}: it must be {_KINDS[problem['type']]}."
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where}: {key} can't be {value}: it must be {reason.partition(', unable')[0]}."


def _at(model: type[Settings], place: Sequence[str | int]) -> type[Settings]:
    """The settings at a place within settings: those of a list's entries at `experts`, 0."""
    for key in place:
        if isinstance(key, str):
            annotation = model.model_fields[key].annotation
            model = next(part for part in get_args(annotation) if part is not Ellipsis)
    return model


def _choices(model: type[Settings], problem: Mapping[str, Any]) -> list[str]:
    annotation = model.model_fields[problem["loc"][0]].annotation
    parts = [annotation, *get_args(annotation)]
    return [str(v) for part in parts if get_origin(part) is Literal for v in get_args(part)]
