"""One merge: what is done with each tensor, in which blocks, and how one block is merged.

A tensor that is merged entry by entry goes through in blocks. A method with a kernel merges a block
in one call of compiled code; the others get its task vectors.

Nothing here knows of files to write, threads or machines.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amm.checkpoints import Checkpoint
from amm.checkpoints.hf import SafetensorsFile
from amm.checkpoints.keys import MERGEABLE, common_name, matrices_of, row_blocks
from amm.checkpoints.writer import Entry
from amm.config import BASE, MergeConfig, Override
from amm.diagnostics import LayerFigures, layer_figures
from amm.engines.pages import MappedPages
from amm.errors import InputError, did_you_mean
from amm.loops import Loop, Numbers, count_changes, merge_entries, task_vectors, visit
from amm.methods import Method, get_method
from amm.methods.registry import LinearSettings, Place, SideFile
from amm.models import Models, open_models
from amm.settings import Settings
from amm.survey import layer_of
from amm.text import size_text

BLOCK_ENTRIES = 2**20
"""Entries of a block of an elementwise merge: enough for what a call costs."""

MULTIPLE = 8
"""All blocks of a tensor but the last have a multiple of so many entries: bits pack into bytes."""

_MAPPED_SHARE = 8
"""One part in so many of the ceiling is for the pages of mapped files."""


@dataclass(frozen=True)
class Rule:
    """What is done with a tensor: a method with its settings, or, without one, the base's.

    Attributes:
        name: in words, for reports.
        method: the method.
        settings: its settings.
        weights: K factors on the task vectors.
        table: the method's table, where it has one.
    """

    name: str
    method: Method | None = None
    settings: Settings = Settings()
    weights: tuple[float, ...] = ()
    table: SafetensorsFile | None = None

    @property
    def whole(self) -> bool:
        """Whether the tensor can't be merged in blocks."""
        return self.method is not None and not self.method.elementwise


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a tensor; all of it where `rows` is None.

    Attributes:
        entry: the tensor, in the output.
        rule: what is done with it.
        rows: which.
        start: flat index, within the tensor, of the first entry.
        size: entries.
    """

    entry: Entry
    rule: Rule
    rows: slice | None
    start: int
    size: int

    @property
    def name(self) -> str:
        """The tensor's."""
        return self.entry.name


@dataclass(frozen=True)
class Inputs:
    """What is read for a block.

    Attributes:
        base: W_0, the block's shape, in its stored dtype.
        start: the same in the merging dtype; out × in where a linear layer is merged as a whole.
        task_vectors: τ_i = W_i − W_0, K × the shape of `start`, in the merging dtype; empty where
            they aren't needed.
        moved: some task vector isn't zero.
    """

    base: Tensor
    start: Tensor
    task_vectors: Tensor
    moved: bool


@dataclass(frozen=True)
class Merged:
    """A merged block, ready to be written.

    Attributes:
        weights: bytes in the saved dtype.
        sides: bytes of each of the side file's tensors.
        moved: some task vector isn't zero.
        changed: entries that the merge moved, before rounding.
        kept: how many of them still differ from the base after rounding.
        layer: figures of a linear layer.
    """

    weights: np.ndarray
    sides: tuple[np.ndarray, ...] = ()
    moved: bool = False
    changed: int = 0
    kept: int = 0
    layer: LayerFigures | None = None


class Job:
    """A merge whose checkpoints are open.

    Args:
        config: the merge.
        models: its models, where they are open already.

    Attributes:
        models: its models.
        base: the base's checkpoint.
        experts: the experts'.
        matching: where the base's tensors are in the experts.
        settings: the method's settings.
        entries: the tensors of the output.
        tables: file → the tables that methods take from calibrations.
        sides: tensor of the output → its tensors in the side file.
        working_memory: bytes for the blocks that are being worked on.

    Raises:
        InputError: an input can't be read, doesn't fit the base, or needs more than `max_memory`.
    """

    def __init__(self, config: MergeConfig, models: Models | None = None) -> None:
        self.config = config
        self.method = get_method(config.method)
        self.settings = config.method_settings()
        self._settings = [config.override_settings(i) for i in range(len(config.overrides))]
        self.models = open_models(config) if models is None else models
        self.base, self.experts = self.models.base, self.models.experts
        self.matching = self.models.matching.check()
        rebased = any(expert.base is not None for expert in config.experts)
        self.dtype: torch.dtype = torch.float64 if rebased else getattr(torch, config.compute_dtype)
        self._check_overrides()
        self.tables: dict[Path, SafetensorsFile] = {}
        self.entries = [
            Entry(key, self.base.shape(key), self._saved_dtype(key)) for key in self.base.keys()
        ]
        self._by_name = {entry.name: entry for entry in self.entries}
        self._rules = {key: self._rule(key) for key in self.base.keys()}
        self._check_tables()
        mapped = config.max_memory // _MAPPED_SHARE
        self.working_memory = config.max_memory - mapped
        files = [file for checkpoint in (self.base, *self.experts) for file in checkpoint.files()]
        self._pages = MappedPages(files, mapped)
        self._block_entries = self._fitting_entries()
        self.sides = self._side_entries()
        self._check_memory()

    @property
    def inputs(self) -> list[tuple[Path | str, Checkpoint]]:
        """The models as they were named, with their checkpoints; the base first."""
        return list(zip(self.config.sources, (self.base, *self.experts), strict=True))

    def entry(self, name: str) -> Entry:
        """A tensor of the output."""
        return self._by_name[name]

    def size(self, name: str) -> int:
        """Bytes that are written of a tensor of the output, in the side file too."""
        return self.entry(name).size + sum(side.size for side in self.sides.get(name, ()))

    def rule(self, name: str) -> Rule:
        """What is done with a tensor."""
        return self._rules[name]

    def matrix(self, name: str) -> tuple[int, int] | None:
        """out × in of a linear layer's weight, or of each in a stack; None of other tensors."""
        return self.matching.layout.matrices.get(name)

    def unit(self, name: str) -> tuple[int, ...]:
        """What a method merges at a time where it can't in blocks: a matrix, or the whole tensor"""
        return self.matrix(name) or self.entry(name).shape

    def _rule(self, name: str) -> Rule:
        owner = self.matching.owners.get(name)
        if owner is not None:
            return Rule(f"copied from expert {owner}" if owner else BASE)
        if self.base.dtype(name) not in MERGEABLE or 0 in self.base.shape(name):
            return Rule("unchanged")
        weights = tuple(expert.weight for expert in self.config.experts)
        number = self._override_of(name)
        if number is None:
            return self._method_rule(name, self.method, self.settings, weights)
        override, (method, settings) = self.config.overrides[number], self._settings[number]
        if settings is None:
            return Rule(BASE)
        weights = weights if override.weights is None else override.weights
        rule = self._method_rule(name, get_method(method), settings, weights)
        return rule if rule.method is None else replace(rule, name=_said(rule.name, override))

    def _method_rule(
        self, name: str, method: Method, settings: Settings, weights: tuple[float, ...]
    ) -> Rule:
        if method.table is not None:
            path = getattr(settings, method.table)
            rule = self._table_rule(name, path, method, settings, weights)
            if rule is not None:
                return rule
        elif method.tensors == "all" or self.matrix(name):
            return Rule(method.name, method, settings, weights)
        assert isinstance(settings, LinearSettings)  # `register` sees to it
        if settings.other_tensors == BASE:
            return Rule(BASE)
        other = get_method(settings.other_tensors)
        return Rule(other.name, other, other.settings(), weights)

    def _table_rule(
        self, name: str, path: Path, method: Method, settings: Settings, weights: tuple[float, ...]
    ) -> Rule | None:
        """The rule of a tensor that the method's table has; None of others, as linear ones may be.

        Raises:
            InputError: the table can't be read, lacks a tensor, or is another model's.
        """
        if path not in self.tables:
            self.tables[path] = SafetensorsFile(path)
        table, matrix, key = self.tables[path], self.matrix(name), common_name(name)
        if method.tensors == "linear" and (matrix is None or key not in table.keys()):
            return None
        if key not in table.keys():
            raise InputError(
                f"{path} has nothing for {name}; calibrate with the models of this merge."
            )
        shape, fitting = table.shape(key), [(), self.base.shape(name)]
        if matrix is not None:
            fitting.append(matrix[1:])
        if shape not in fitting:
            raise InputError(
                f"{path}: what it has for {name} is {list(shape)}, and that is"
                f" {list(self.base.shape(name))}; calibrate with the models of this merge."
            )
        return Rule(method.name, method, settings, weights, table)

    def _check_tables(self) -> None:
        used = {rule.table.path for rule in self._rules.values() if rule.table is not None}
        for path in self.tables.keys() - used:
            raise InputError(
                f"{path} has nothing for any linear layer of {self.base.path}; calibrate with that"
                " model."
            )

    def _override_of(self, name: str) -> int | None:
        """The first that fits a tensor; for a matrix that is stored twice, its first name."""
        name = self.matching.copies.get(name, name)
        layer = layer_of(name)
        fitting = (i for i, each in enumerate(self.config.overrides) if each.fits(name, layer))
        return next(fitting, None)

    def _check_overrides(self) -> None:
        """Refuse those that fit no tensor, each of their patterns by itself, and side files."""
        keys = [key for key in self.base.keys() if key not in self.matching.owners]
        layers = [layer_of(key) for key in keys]
        for number, override in enumerate(self.config.overrides):
            for pattern in override.names:
                alone = override.model_copy(update={"names": (pattern,)})
                if not any(map(alone.fits, keys, layers)):
                    raise InputError(_fits_nothing(number, alone, keys, layers))
            method = override.method
            if method not in (None, BASE, self.config.method) and get_method(method).side:
                raise InputError(
                    f"overrides.{number}: method '{method}' leaves a file beside the weights, which"
                    " it can do for a whole merge alone; set it as the merge's method."
                )

    def cost(self, name: str) -> float:
        """About the work on a tensor, in operations; only the proportions matter."""
        shape = self.entry(name).shape
        entries = math.prod(shape)
        if not self.rule(name).whole:
            return 1e2 * entries
        rows, columns = self.unit(name)
        return 1e3 * entries * min(columns, 2 * len(self.experts) * rows)

    def blocks(self, name: str) -> list[Block]:
        """The blocks of a tensor, in order."""
        entry, rule = self.entry(name), self.rule(name)
        width = math.prod(entry.shape[1:])
        if rule.whole:
            cuts = matrices_of(entry.shape)
        else:
            cuts = row_blocks(entry.shape, self._block_entries, MULTIPLE)
        return [
            Block(entry, rule, None, 0, math.prod(entry.shape))
            if rows is None
            else Block(entry, rule, rows, rows.start * width, (rows.stop - rows.start) * width)
            for rows in cuts
        ]

    def need(self, block: Block) -> int:
        """Bytes that reading and merging a block takes, its mapped pages not included."""
        method = block.rule.method
        if method is None or method.elementwise:
            return block.size * self._bytes_per_entry
        stack = (len(self.experts) + 2) * block.size * self.dtype.itemsize
        if self.config.device != "cpu":
            return stack
        estimate = method.memory or self._usual_memory
        return stack + estimate(self.unit(block.name), len(self.experts))

    def drop_pages(self) -> None:
        """Drop the pages of the inputs' mapped files that were read."""
        self._pages.drop()

    def statistics(self, name: str) -> object:
        """What the tensor's method needs to know of the whole tensor; None for most methods."""
        rule = self.rule(name)
        if rule.method is None:
            return None
        return rule.method.measure(_Blocks(self, name, rule.method), rule.settings)

    def read(self, block: Block) -> Inputs:
        """Read a block of every model, and take the differences.

        Raises:
            InputError: a damaged file, entries that aren't finite, or, where a tensor can't be
                merged, an expert whose tensor isn't the base's.
        """
        base = self._read(self.base, block.name, block.rows)
        alone = Inputs(base, base, torch.empty(0), False)
        if block.name in self.matching.owners:  # as it is: an encoder's bounds may be infinite
            return alone
        if block.rule.method is None:
            if base.dtype not in MERGEABLE:
                self._check_same(block, base)
            elif not is_finite(base):
                raise InputError(_not_finite(self.base, block.name))
            return alone
        factors = block.rule.weights
        if not block.rule.whole:
            numbers = _as_numbers([base, *self._expert_weights(block)], self.dtype)
            flat, differences, finite, moved = task_vectors(numbers, factors, self.real)
            if not finite:
                self.blame(block)
            shaped = torch.from_numpy(differences).view(-1, *base.shape)
            return Inputs(base, torch.from_numpy(flat).view(base.shape), shaped, moved)
        start = self._oriented(block, base).to(self.dtype)
        weights = (self._oriented(block, own) for own in self._expert_weights(block))
        vectors = self._task_vectors(start, weights, factors)
        if not is_finite(vectors):
            self.blame(block)
        return Inputs(base, start, vectors, bool(vectors.any()))

    def merge(self, block: Block, inputs: Inputs, statistics: object = None) -> Merged:
        """Merge a block, and round it once.

        Raises:
            InputError: the merged weights don't fit the saved dtype.
        """
        entry, rule = block.entry, block.rule
        base, method, vectors = inputs.base, rule.method, inputs.task_vectors
        unmerged = base if base.dtype == entry.dtype else self._rounded(entry, base)
        if method is None:
            return Merged(_bytes(unmerged))
        if not inputs.moved:
            return Merged(_bytes(unmerged), self._side_bytes(entry, method.side, vectors, None))
        if rule.whole:  # elsewhere copying to a GPU and back would take longer than the work
            vectors = vectors.to(self.config.device)
        name = self.matching.copies.get(block.name, block.name)
        given = method.given(inputs.start.to(vectors.device), vectors)
        place = Place(name, block.start, statistics, self._table_of(block, given))
        tau = method(given, rule.settings, place)
        added = tau.cpu()
        merged = self._rounded(entry, self._oriented(block, inputs.start + added))
        count = count_changes.compiled(self.real, _bits(merged).dtype)
        changed, kept = count(_flat(self._oriented(block, added)), _bits(merged), _bits(unmerged))
        return Merged(
            _bytes(merged),
            self._side_bytes(entry, method.side, vectors, tau),
            moved=True,
            changed=changed,
            kept=kept,
            layer=layer_figures(vectors, tau) if rule.whole else None,
        )

    def _table_of(self, block: Block, like: Tensor) -> Tensor | None:
        table, key = block.rule.table, common_name(block.name)
        if table is None:
            return None
        whole = table.shape(key) == block.entry.shape
        return table.read(key, block.rows if whole else None).to(like)

    def merge_entries(self, block: Block, statistics: object = None) -> Merged:
        """Read and merge a block of an elementwise method, or of none.

        Raises:
            InputError: as `read` and `merge`.
        """
        entry, rule = block.entry, block.rule
        method = rule.method
        if method is None or method.kernel is None or not self._fits_kernel(entry):
            return self.merge(block, self.read(block), statistics)
        kernel = method.kernel
        merged = torch.empty(block.size, dtype=entry.dtype)
        parameters = kernel.parameters(rule.settings, len(self.experts), statistics)
        outcome = merge_entries(
            kernel.loop,
            parameters,
            self.numbers(block),
            rule.weights,
            _numpy(merged),
            self.real,
            with_base=method.base,
        )
        if not outcome.finite:
            self.blame(block)
        if not outcome.fits:
            raise InputError(_does_not_fit(entry))
        return Merged(
            _bytes(merged), moved=outcome.moved, changed=outcome.changed, kept=outcome.kept
        )

    def _fits_kernel(self, entry: Entry) -> bool:
        """numba doesn't know float16, and what isn't moved keeps its bytes."""
        stored = self.base.dtype(entry.name)
        return entry.dtype != torch.float16 and stored.itemsize <= self.dtype.itemsize

    def numbers(self, block: Block) -> Numbers:
        """The block's entries of the base and the experts."""
        base = self._read(self.base, block.name, block.rows)
        return _as_numbers([base, *self._expert_weights(block)], self.dtype)

    @property
    def real(self) -> np.dtype:
        """The merging dtype, in NumPy's words."""
        return np.dtype(str(self.dtype).removeprefix("torch."))

    @property
    def _bytes_per_entry(self) -> int:
        experts = len(self.experts)
        return self.dtype.itemsize * (4 * experts + 4) + 8 * (experts + 2)

    def _usual_memory(self, shape: Sequence[int], experts: int) -> int:
        """For methods that don't say: copies of the task vectors, and their Gram matrices."""
        entries, columns = math.prod(shape), shape[-1]
        grams = (experts + 3) * columns**2 if columns <= experts * shape[0] else 0
        return self.dtype.itemsize * ((4 * experts + 8) * entries + 2 * grams)

    def _fitting_entries(self) -> int:
        """Entries of a block such that every thread has one, and one more is being written."""
        parallel = 2 * (torch.get_num_threads() + 1)
        return min(BLOCK_ENTRIES, self.working_memory // (parallel * self._bytes_per_entry))

    def _check_memory(self) -> None:
        """Refuse a ceiling that the largest need is above."""
        needs = {e: max(map(self.need, self.blocks(e.name)), default=0) for e in self.entries}
        entry = max(needs, key=lambda entry: needs[entry], default=None)
        if entry is not None and needs[entry] > self.working_memory:
            ceiling = size_text(-(-needs[entry] * _MAPPED_SHARE // (_MAPPED_SHARE - 1)))
            shape = "×".join(map(str, entry.shape))
            raise InputError(
                f"{entry.name} ({shape}) with {len(self.experts)} experts doesn't fit max_memory,"
                f" {size_text(self.config.max_memory)}; set max_memory: {ceiling}"
            )

    def _side_entries(self) -> dict[str, list[Entry]]:
        if self.method.side is None:
            return {}
        return {
            entry.name: [
                Entry(side.name, tuple(side.shape), side.dtype)
                for side in self.method.side.entries(entry.name, entry.shape, len(self.experts))
            ]
            for entry in self.entries
            if self.rule(entry.name).method is self.method
        }

    def _side_bytes(
        self, entry: Entry, side: SideFile | None, vectors: Tensor, tau: Tensor | None
    ) -> tuple[np.ndarray, ...]:
        """Bytes of a block's tensors in the side file; τ is None where nothing moved."""
        if side is None:
            return ()
        merged = torch.zeros_like(vectors[0]) if tau is None else tau
        tensors = side.tensors(vectors, merged, self.settings)
        for planned, tensor in zip(self.sides[entry.name], tensors, strict=True):
            if tensor.dtype != planned.dtype:
                raise ValueError(
                    f"{planned.name} is planned as {planned.dtype}, not {tensor.dtype}"
                )
        return tuple(map(_bytes, tensors))

    def _read(self, checkpoint: Checkpoint, key: str, rows: slice | None) -> Tensor:
        tensor = checkpoint.read(key, rows)
        self._pages.count(tensor.nbytes)
        return tensor

    def sample(self, block: Block, every: int) -> Tensor:
        """K × n task vectors of one entry in `every`."""
        start = self._read(self.base, block.name, block.rows).flatten()[::every].to(self.dtype)
        weights = (own.flatten()[::every] for own in self._expert_weights(block))
        return self._task_vectors(start, weights, block.rule.weights)

    def _task_vectors(
        self, start: Tensor, weights: Iterable[Tensor], factors: Sequence[float]
    ) -> Tensor:
        vectors = torch.empty(len(self.experts), *start.shape, dtype=self.dtype)
        for vector, own, factor in zip(vectors, weights, factors, strict=True):
            vector.copy_(own).sub_(start).mul_(factor)
        return vectors

    def _expert_weights(self, block: Block) -> Iterator[Tensor]:
        for expert, key in self._sources(block.name):
            yield self._read(expert, key, block.rows)

    def _sources(self, name: str) -> Iterator[tuple[Checkpoint, str]]:
        """For each expert, what is read as its tensor: its own, or the base's."""
        for expert, names in zip(self.experts, self.matching.names, strict=True):
            own = names[name]
            yield (self.base, name) if own is None else (expert, own)

    def _oriented(self, block: Block, weights: Tensor) -> Tensor:
        """out × in where in × out is stored, and the other way round; the one matrix of a stack."""
        if not block.rule.whole:
            return weights
        matrix = weights.flatten(0, -2)
        return matrix.T if block.name in self.matching.layout.transposed else matrix

    def blame(self, block: Block) -> None:
        """Say which input has entries that aren't finite."""
        for checkpoint, key in [(self.base, block.name), *self._sources(block.name)]:
            if not is_finite(checkpoint.read(key, block.rows)):
                raise InputError(_not_finite(checkpoint, key))
        raise InputError(
            f"{block.name}: differences from the base don't fit {self.dtype};"
            " set compute_dtype: float64."
        )

    def _check_same(self, block: Block, base: Tensor) -> None:
        for expert, key in self._sources(block.name):
            if not torch.equal(self._read(expert, key, block.rows), base):
                raise InputError(
                    f"{expert.path}: {key} differs from the base's and has dtype {base.dtype},"
                    " which can't be merged; only floating-point weights of 16 bits and more can."
                )

    def _saved_dtype(self, name: str) -> torch.dtype:
        stored = self.base.dtype(name)
        if self.config.save_dtype is None or stored not in MERGEABLE:
            return stored
        return getattr(torch, self.config.save_dtype)

    def _rounded(self, entry: Entry, values: Tensor) -> Tensor:
        rounded = values.to(entry.dtype)
        copied = entry.name in self.matching.owners
        if not is_finite(rounded) and not (copied and not is_finite(values)):
            raise InputError(_does_not_fit(entry))
        return rounded


class _Blocks:
    """The blocks of a tensor for a method's `statistics`; see `amm.methods.registry.Blocks`."""

    def __init__(self, job: Job, name: str, method: Method) -> None:
        self._job = job
        self._method = method
        self._blocks = job.blocks(name)
        self.experts = len(job.experts)
        self.largest = max(block.size for block in self._blocks)

    def __call__(self, every: int = 1) -> Iterator[Tensor]:
        for block in self._blocks:
            if every == 1:
                inputs = self._job.read(block)
                yield self._method.given(inputs.start, inputs.task_vectors)
            else:
                yield self._job.sample(block, every)

    def visit(self, visitor: Loop, *keeps: np.ndarray) -> Iterator[int]:
        for block in self._blocks:
            if not visit(visitor, self._job.numbers(block), block.rule.weights, keeps):
                self._job.blame(block)
            yield block.size


def is_finite(values: Tensor) -> bool:
    """In one quick pass: a sum with an infinity or NaN isn't finite; one that overflows is rare."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def _said(rule: str, override: Override) -> str:
    """A rule's name with what an override says otherwise."""
    parts = [f"{key} {value}" for key, value in override.parameters.items()]
    if override.weights is not None:
        parts.append(f"weights {' · '.join(f'{w:g}' for w in override.weights)}")
    return ", ".join([rule, *parts])


def _fits_nothing(
    number: int, override: Override, keys: Sequence[str], layers: Sequence[int | None]
) -> str:
    (pattern,), wanted = override.names, override.layers
    if wanted is not None and any(fnmatch.fnmatchcase(key, pattern) for key in keys):
        numbers = {layer for layer in layers if layer is not None}
        there = f"layers are 0 to {max(numbers)}" if numbers else "no layers are numbered"
        return f"overrides.{number}: no tensor '{pattern}' is in these layers; {there}."
    parts = {part for key in keys for part in key.split(".") if not part.isdigit()}
    said = [part for part in re.split(r"[.*?]+", pattern) if part and not part.isdigit()]
    wrong = next((each for each in said if not any(each in part for part in parts)), pattern)
    return (
        f"overrides.{number}: no tensor of the base has a name like '{pattern}'. Parts of names:"
        f" {did_you_mean(wrong, parts)}"
    )


def _bits(tensor: Tensor) -> np.ndarray:
    """The entries as integers: NumPy knows no bfloat16, and torch compares many times slower."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize]
    return _flat(tensor.view(integer))


def _as_numbers(weights: Sequence[Tensor], dtype: torch.dtype) -> Numbers:
    """Tensors in the merging dtype; as bits, if all have bfloat16 and it is float32."""
    if dtype == torch.float32 and all(tensor.dtype == torch.bfloat16 for tensor in weights):
        dtype = torch.bfloat16
    return tuple(np.require(_numpy(tensor.to(dtype)), None, ("C", "A", "W")) for tensor in weights)


def _numpy(tensor: Tensor) -> np.ndarray:
    """The entries; those of bfloat16, which NumPy doesn't know, as bits."""
    return _bits(tensor) if tensor.dtype == torch.bfloat16 else _flat(tensor)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().reshape(-1).numpy()


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _not_finite(checkpoint: Checkpoint, key: str) -> str:
    return (
        f"{checkpoint.path}: {key} has entries that aren't finite (NaN or infinite); use an earlier"
        " checkpoint of that run."
    )


def _does_not_fit(entry: Entry) -> str:
    return (
        f"{entry.name}: the merged weights don't fit {entry.dtype} (they become infinite); set"
        " save_dtype: float32, or a smaller scale."
    )
