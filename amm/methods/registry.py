"""Registry of merge methods: one decorator registers one.

A method is a pure function of one tensor's task vectors. It declares which tensors it is for:

* `tensors="all"`: every tensor;
* `tensors="linear"`: the 2-D weights of linear layers (`amm.layers.is_linear`). Its settings
  are then `LinearSettings`, which say what becomes of the rest; `amm.methods.linear` has what such
  methods share.

All that calls a method does so through `Method`; from Python `merge_tensors` is the way.

Other packages add methods with an entry point of the group `amm.methods` whose value is the
module that registers them; it is imported when a name isn't known, and when all are listed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amm.errors import InputError, did_you_mean
from amm.loops import Loop, apply, visit
from amm.settings import Settings, validated

MethodFunction = Callable[..., Tensor]
"""(task vectors, settings), and a `Place` where the method asks for one."""


class Blocks(Protocol):
    """The task vectors of one tensor, in blocks, in order; starts over each time it is called.

    Attributes:
        experts: K.
        largest: entries of the largest block.
    """

    experts: int
    largest: int

    def __call__(self, every: int = 1) -> Iterator[Tensor]:
        """K × block task vectors on the CPU; K × n of one entry in `every` where that is above 1.

        W_0 stands before them for a method that asks for it.

        A sample is read in a fraction of the time, and isn't checked for NaN and infinities.
        """
        ...

    def visit(self, visitor: Loop, *keeps: npt.NDArray) -> Iterator[int]:
        """Show all to a compiled loop, in a fraction of the time; see `amm.loops.visitor`.

        Args:
            visitor: the loop.
            keeps: the three arrays in which it keeps what it finds, of the merging dtype.

        Yields:
            After each block how many entries it has.
        """
        ...


class TensorBlocks:
    """`Blocks` of a tensor whose task vectors are in memory.

    Args:
        vectors: K × its shape, on the CPU, float32 or float64.
        rows: of its first dimension in a block; None: one block.
        base: the first of the vectors is W_0.
    """

    def __init__(self, vectors: Tensor, rows: int | None = None, base: bool = False) -> None:
        self._blocks = vectors.split(rows, dim=1) if rows and vectors.dim() > 1 else (vectors,)
        self.experts = len(vectors) - base
        self.largest = max(block[0].numel() for block in self._blocks)

    def __call__(self, every: int = 1) -> Iterator[Tensor]:
        for block in self._blocks:
            yield block if every == 1 else block[..., None].flatten(1)[:, ::every]

    def visit(self, visitor: Loop, *keeps: npt.NDArray) -> Iterator[int]:
        for block in self._blocks:
            vectors = block[len(block) - self.experts :]  # without W_0
            flat = vectors.reshape(self.experts, -1).contiguous().numpy()
            visit(visitor, (np.zeros_like(flat[0]), *flat), [1.0] * self.experts, keeps)
            yield flat.shape[1]


OtherTensors = Literal["mean", "base", "task_arithmetic"]
ENTRY_POINTS = "amm.methods"


class LinearSettings(Settings):
    """Settings that every method of linear layers has.

    Attributes:
        scale: W = W_0 + scale · τ; 1 where the method's page doesn't say another.
        other_tensors: what is done with embeddings, heads, norms, biases and convolutions: `mean`
            or sum (`task_arithmetic`) of the task vectors, or `base`. `scale` doesn't touch them.
    """

    scale: float = 1.0
    other_tensors: OtherTensors = "mean"


@dataclass(frozen=True)
class Place:
    """Where in the model a block of task vectors is.

    Attributes:
        name: the tensor's name in the output.
        start: flat index, within the tensor, of the block's first entry.
        statistics: what the method's `statistics` returned for this tensor; None without one.
        table: what the method's table has for the block, in the dtype of the task vectors; None
            without one.
    """

    name: str
    start: int = 0
    statistics: Any = None
    table: Tensor | None = None


class SideEntry(NamedTuple):
    """A tensor of a side file: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class SideFile:
    """Tensors that a method leaves beside the weights, in a safetensors file of its own.

    Attributes:
        file: its name in the output folder.
        entries: (name and shape of a merged tensor, K) → its tensors in the side file.
        tensors: (task vectors, K × block; what the method returned for them; settings) → the rows
            of these tensors that belong to the block, in the order of `entries`. The blocks' rows
            are put one after the other along the first dimension. Called for every block, also
            where all task vectors are zero.
    """

    file: str
    entries: Callable[[str, tuple[int, ...], int], list[SideEntry]]
    tensors: Callable[[Tensor, Tensor, Any], list[Tensor]]


class Kernel(NamedTuple):
    """The compiled form of an elementwise method, which merges several times faster.

    Attributes:
        loop: (K × N task vectors, parameters) → what the method's function returns for them; see
            `amm.loops.kernel`.
        parameters: (settings, K, what `statistics` returned) → its parameters.
    """

    loop: Loop
    parameters: Callable[[Any, int, Any], Sequence[float]]


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: what `merge.yaml` calls it.
        function: (task vectors, K × the tensor's shape; settings) → what is added to the base.
        settings: the class of its settings.
        tensors: which tensors it is for.
        elementwise: the result at an entry depends on that entry, its place and `statistics`
            alone, so that a tensor may be merged in blocks of rows.
        place: the function takes a third argument, a `Place`.
        base: W_0 stands before the task vectors wherever it gets these, 1 + K in all.
        statistics: (blocks of the tensor, settings) → what the function needs to know of the whole
            tensor; it is handed on in `Place.statistics`.
        table: the setting that names its table: a safetensors file that a calibration left, with a
            tensor for each that the method is for, by `amm.checkpoints.keys.common_name`. It is
            as large as that tensor, or has an entry for each of its columns, or one for all.
        side: what it leaves beside the weights.
        kernel: the same as the function, compiled; for elementwise methods without a side file.
        memory: (shape of a tensor, K) → bytes that the function takes at most, beside its
            arguments and its result; None where the engine's estimate is enough.

    Raises:
        ValueError: `statistics` without `elementwise` and `place`, a table without `place`, a
            kernel without `elementwise` or beside a side file, or a method of linear layers whose
            settings aren't `LinearSettings`.
    """

    name: str
    function: MethodFunction
    settings: type[Settings]
    tensors: Literal["all", "linear"]
    elementwise: bool = False
    place: bool = False
    base: bool = False
    statistics: Callable[[Blocks, Any], Any] | None = None
    table: str | None = None
    side: SideFile | None = None
    kernel: Kernel | None = None
    memory: Callable[[tuple[int, ...], int], int] | None = None

    def __post_init__(self) -> None:
        wrong = None
        if self.tensors == "linear" and not issubclass(self.settings, LinearSettings):
            wrong = 'tensors="linear" needs LinearSettings'
        elif self.statistics is not None and not (self.elementwise and self.place):
            wrong = "statistics need elementwise=True and place=True"
        elif self.table is not None and not self.place:
            wrong = "a table needs place=True"
        elif self.kernel is not None and (not self.elementwise or self.side is not None):
            wrong = "a kernel needs elementwise=True, and no side file"
        if wrong:
            raise ValueError(f"method '{self.name}': {wrong}")

    def given(self, start: Tensor, vectors: Tensor) -> Tensor:
        """What the function gets: the task vectors, after W_0 where it asks for that."""
        return torch.cat([start[None], vectors]) if self.base else vectors

    def measure(self, blocks: Blocks, settings: Settings) -> Any:
        """What the function needs to know of a whole tensor, for its `Place`; None for most."""
        return None if self.statistics is None else self.statistics(blocks, settings)

    def __call__(self, task_vectors: Tensor, settings: Settings, place: Place) -> Tensor:
        """Merge one tensor, or a block of it.

        Args:
            task_vectors: K × the block's shape, τ_i = W_i − W_0, float32 or float64.
            settings: of the class that the method names.
            place: where the block is, with what `measure` returned for the tensor.

        Returns:
            What is added to the base, the block's shape.
        """
        if self.kernel is not None and task_vectors.device.type == "cpu":
            experts = len(task_vectors) - self.base
            parameters = self.kernel.parameters(settings, experts, place.statistics)
            flat = task_vectors.reshape(len(task_vectors), -1).contiguous().numpy()
            tau = apply(self.kernel.loop, parameters, flat)
            return torch.from_numpy(tau).view(task_vectors.shape[1:])
        return self.function(task_vectors, settings, *((place,) if self.place else ()))


_METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    settings: type[Settings],
    tensors: Literal["all", "linear"],
    **options: Any,
) -> Callable[[MethodFunction], MethodFunction]:
    """Register the decorated function under a name; doing so twice with the same one is fine.

    Args:
        name: what `merge.yaml` calls it.
        settings: the class of its settings.
        tensors: which tensors it is for.
        **options: the others of `Method`.

    Raises:
        InputError: the name belongs to something else.
        ValueError: options that don't go together; see `Method`.
    """

    def decorator(function: MethodFunction) -> MethodFunction:
        method = Method(name, function, settings, tensors, **options)
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
        _load_entry_points()
    if name not in _METHODS:
        raise InputError(f"unknown merge method '{name}'. {did_you_mean(name, _METHODS)}")
    return _METHODS[name]


def merge_tensors(
    method: str,
    task_vectors: Tensor,
    *,
    base: Tensor | None = None,
    table: Tensor | None = None,
    name: str = "tensor",
    **settings: Any,
) -> Tensor:
    """Merge the task vectors of one tensor in memory, as a merge of models does.

        tau = amm.merge_tensors("ties", torch.stack([w_math - w, w_ocr - w]), density=0.3)

    Args:
        method: name of a registered method.
        task_vectors: K × the tensor's shape, τ_i = W_i − W_0, float32 or float64; K × out × in for
            methods of linear layers.
        base: W_0, for the methods that need it (`slerp`, `karcher`).
        table: for the methods with one (`aim`, `rpam`), what it has for the tensor, in place of the
            setting that names its file.
        name: of the tensor, on which what is random depends.
        settings: of the method, as under `parameters` of a merge.

    Returns:
        What is added to the base, the tensor's shape.

    Raises:
        InputError: unknown method, a wrong setting, or a shape or dtype that isn't one of these.
    """
    found = get_method(method)
    if found.table is not None:
        if table is None:
            raise InputError(
                f"merge_tensors: '{method}' needs what a calibration found; give table=…"
            )
        settings = {**settings, found.table: "in memory"}
        table = table.to(task_vectors)
    chosen = validated(found.settings, settings, parameters_of(method))
    if task_vectors.dtype not in (torch.float32, torch.float64) or not len(task_vectors):
        raise InputError(
            f"merge_tensors: task_vectors are {len(task_vectors)} × {task_vectors.dtype}; give at"
            " least one, in float32 or float64."
        )
    if found.tensors == "linear" and task_vectors.dim() != 3:
        raise InputError(
            f"merge_tensors: '{method}' merges weights of linear layers, K × out × in, not"
            f" {tuple(task_vectors.shape)}."
        )
    given = task_vectors
    if found.base:
        if base is None:
            raise InputError(f"merge_tensors: '{method}' needs the base's weights; give base=W_0.")
        given = torch.cat([base[None].to(task_vectors), task_vectors])
    statistics = found.measure(TensorBlocks(given, base=found.base), chosen)
    return found(given, chosen, Place(name, 0, statistics, table))


def parameters_of(method: str) -> str:
    """What a method's settings are called in messages."""
    return f"parameters of method '{method}'"


def method_names() -> list[str]:
    """Names of the registered methods, those of other packages too, in alphabetical order."""
    _load_entry_points()
    return sorted(_METHODS)


@functools.cache
def _load_entry_points() -> None:
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry_point.load()
        except Exception as error:
            warnings.warn(
                f"the merge method '{entry_point.name}' ({entry_point.value}) of another package"
                f" can't be used: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
