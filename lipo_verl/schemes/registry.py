"""Registry of length schemes: one decorator registers one.

A scheme is a pure function of the responses to some prompts: their rewards, lengths and correctness
in, shaped rewards out. What is made of shaped rewards (weights, normalisation, a filter) is
`lipo_verl.lipo`'s, and the same for all.

Other packages add schemes with an entry point of the group `lipo_verl.schemes` whose value is the
module that registers them; it is imported when a name isn't known, and when all are listed.
"""

import functools
import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy import ndarray
from pydantic import BaseModel, ConfigDict

logger = logging.getLogger(__name__)

ENTRY_POINTS = "lipo_verl.schemes"


class Settings(BaseModel):
    """Base of a scheme's settings, which are set under `algorithm.lipo.` beside the common ones.

    Frozen; unknown keys, NaN and infinities are refused. Each field's description says what it does
    and carries its label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Responses:
    """G groups (prompts) of n >= 2 responses each, in any order.

    Attributes:
        rewards: (G, n) float64, the rule's scores.
        lengths: (G, n) float64, tokens that the policy generated; at least 1.
        correct: (G, n) bool, the right answers.
        truncated: (G, n) bool, cut at the response budget: their length is unknown.
        budget: tokens that a response may have; None where nobody said.
    """

    rewards: ndarray
    lengths: ndarray
    correct: ndarray
    truncated: ndarray
    budget: int | None = None

    @property
    def pass_rate(self) -> ndarray:
        """(G, 1) share of right answers."""
        return self.correct.mean(1, keepdims=True)


State = Mapping[str, float]
"""What a scheme remembers from batch to batch: numbers by name, logged as `lipo/<name>`."""


@dataclass(frozen=True)
class Scheme:
    """A registered scheme.

    Attributes:
        name: what `algorithm.lipo.scheme` calls it.
        function: (responses, settings) -> (G, n) float64 shaped rewards, from the responses of each
            group alone; with `remember`, a third argument: the state.
        settings: the class of its settings.
        remember: (state, or None at first; the batch's responses, by group size; settings) -> the
            state, called once before each batch.
        weights: LIPO's weights are on where `algorithm.lipo.weights` does not say.
        right_groups: length tells right answers apart, so that groups that are all right teach.
    """

    name: str
    function: Callable[..., ndarray]
    settings: type[Settings]
    remember: Callable[[State | None, Sequence[Responses], Any], State] | None = None
    weights: bool = False
    right_groups: bool = True


_SCHEMES: dict[str, Scheme] = {}


def register(
    name: str, *, settings: type[Settings] = Settings, **options: Any
) -> Callable[[Callable[..., ndarray]], Callable[..., ndarray]]:
    """Register the decorated function under a name; doing so twice with the same one is fine.

    Args:
        settings: the class of its settings; none by default.
        options: the others of `Scheme`.

    Raises:
        ValueError: the name belongs to another scheme.
    """

    def decorator(function: Callable[..., ndarray]) -> Callable[..., ndarray]:
        scheme = Scheme(name, function, settings, **options)
        if (taken := _SCHEMES.setdefault(name, scheme)) != scheme:
            raise ValueError(
                f"the scheme name {name!r} belongs to {taken.function.__module__}."
                f"{taken.function.__qualname__} already; register {function.__module__}."
                f"{function.__qualname__} under another name."
            )
        return function

    return decorator


def get_scheme(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        KeyError: there is none.
    """
    if name not in _SCHEMES:
        _load_entry_points()
    return _SCHEMES[name]


def schemes() -> list[Scheme]:
    """All schemes, those of other packages too, in alphabetical order."""
    _load_entry_points()
    return [_SCHEMES[name] for name in sorted(_SCHEMES)]


@functools.cache
def _load_entry_points() -> None:
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry_point.load()
        except Exception as error:
            logger.warning(
                "the length scheme %r (%s) of another package can't be used: %s: %s",
                *(entry_point.name, entry_point.value, type(error).__name__, error),
            )
