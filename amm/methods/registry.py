"""Registry of merge methods: one decorator registers one.

A method is a pure function of one tensor's task vectors. It declares which tensors it is for:

* ``tensors="all"``: every tensor;
* ``tensors="linear"``: the 2-D weights of linear layers (`amm.layers.is_linear`). Its settings
  then have a key ``other_tensors``, which says what becomes of the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from amm.errors import InputError, did_you_mean
from amm.settings import Settings

MethodFunction = Callable[[Tensor, Settings], Tensor]
OtherTensors = Literal["mean", "base", "task_arithmetic"]


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: what `merge.yaml` calls it.
        function: (task vectors, K × the tensor's shape; settings) → what is added to the base.
        settings: the class of its settings.
        tensors: which tensors it is for.
        elementwise: the result at an entry depends on that entry alone, so that a tensor may be
            merged in blocks of rows.
    """

    name: str
    function: MethodFunction
    settings: type[Settings]
    tensors: Literal["all", "linear"]
    elementwise: bool


_METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    settings: type[Settings],
    tensors: Literal["all", "linear"],
    elementwise: bool = False,
) -> Callable[[MethodFunction], MethodFunction]:
    """Register the decorated function under a name; doing so twice with the same one is fine.

    Raises:
        InputError: the name belongs to something else.
    """

    def decorator(function: MethodFunction) -> MethodFunction:
        method = Method(name, function, settings, tensors, elementwise)
        taken = _METHODS.setdefault(name, method)
        if taken != method:
            raise InputError(
                f"the merge method name '{name}' belongs to "
                f"{taken.function.__module__}.{taken.function.__qualname__} already; "
                f"register {function.__module__}.{function.__qualname__} under another name."
            )
        return function

    return decorator


def get_method(name: str) -> Method:
    """Look a method up.

    Raises:
        InputError: no such method; the message has the nearest name and the list.
    """
    if name not in _METHODS:
        raise InputError(f"unknown merge method '{name}'. {did_you_mean(name, _METHODS)}")
    return _METHODS[name]


def method_names() -> list[str]:
    """Names of the registered methods, in alphabetical order."""
    return sorted(_METHODS)
