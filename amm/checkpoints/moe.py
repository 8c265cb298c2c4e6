"""A mixture of experts in the layout of its base: one tensor per expert, or all of them in one.

On the Hub most models have `experts.3.gate_proj.weight`, `up_proj`, `down_proj` (Mixtral: `w1`,
`w3`, `w2`). In memory, and so in the shards of a training, transformers 5 has

    experts.gate_up_proj    E × 2I × H, gate above up
    experts.down_proj       E × H × I

and some models (Qwen3-VL-MoE, Llama 4, gpt-oss) are published with both transposed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amm.checkpoints.base import Checkpoint
from amm.checkpoints.keys import common_name

_PARTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_APART = ("gate_proj", "up_proj", "down_proj")
_FUSED = ("gate_up_proj", "up_proj", "down_proj")


_NUMBERS = frozenset(map(str, range(10_000)))


@dataclass(frozen=True)
class _Source:
    """Where a tensor in the base's layout comes from.

    Attributes:
        keys: of a stack that is made, the matrices of each expert; else one stored stack.
        number: the expert that is taken out of the stack; None: all.
        half: which half of its rows, where gate and up are one tensor.
        turned: the result is transposed.
    """

    keys: tuple[tuple[str, ...], ...]
    number: int | None = None
    half: int | None = None
    turned: bool = False


class LaidOutCheckpoint:
    """A checkpoint whose mixtures of experts are in another's layout; see
    `amm.checkpoints.base.Checkpoint`."""

    def __init__(
        self, checkpoint: Checkpoint, sources: Mapping[str, _Source], shapes: Mapping[str, tuple]
    ) -> None:
        self.path: Path = checkpoint.path
        self.files_folder = checkpoint.files_folder
        self._checkpoint = checkpoint
        self._sources = sources
        self._shapes = shapes
        used = {key for source in sources.values() for keys in source.keys for key in keys}
        self._others = [key for key in checkpoint.keys() if key not in used]

    def keys(self) -> list[str]:
        return sorted([*self._others, *self._sources])

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes[key] if key in self._sources else self._checkpoint.shape(key)

    def dtype(self, key: str) -> torch.dtype:
        source = self._sources.get(key)
        return self._checkpoint.dtype(key if source is None else source.keys[0][0])

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        source, read = self._sources.get(key), self._checkpoint.read
        if source is None:
            return read(key, rows)
        if source.number is not None:
            ((fused,),) = source.keys
            matrix = read(fused, slice(source.number, source.number + 1))[0]
            matrix = matrix.T if source.turned else matrix
            matrix = matrix if source.half is None else matrix.chunk(2)[source.half]
            return matrix if rows is None else matrix[rows]
        first = source.keys[0][0]
        if len(self._checkpoint.shape(first)) == 3:
            stack = read(first, rows)
        else:
            wanted = source.keys if rows is None else source.keys[rows]
            stack = torch.stack([torch.cat([read(part) for part in parts]) for parts in wanted])
        return stack.transpose(1, 2) if source.turned else stack

    def files(self) -> list[Path]:
        return self._checkpoint.files()

    def describe(self) -> str:
        return f"{self._checkpoint.describe()}, experts brought to the base's layout"


@dataclass
class _Mixture:
    """The experts of one layer: (number, part) → key where they are apart, part → key of stacks."""

    apart: dict[tuple[int, str], str]
    fused: dict[str, str]


def laid_out(checkpoint: Checkpoint, base: Checkpoint) -> Checkpoint:
    """A checkpoint with its mixtures of experts in the base's layout; itself where they are.

    What doesn't fit the base in either layout stays as it is, and so is reported by name.
    """
    sources: dict[str, _Source] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    found = _mixtures(checkpoint)
    for at, wanted in _mixtures(base).items():
        mine = found.get(at)
        if mine is None or (mine.apart and wanted.apart):
            continue
        if mine.apart and wanted.fused:
            made = _fuse(checkpoint, mine, base, wanted)
        elif mine.fused and wanted.apart:
            made = _take_apart(checkpoint, mine, base, wanted)
        else:
            made = _turn(checkpoint, mine, base, wanted)
        for key, (source, shape) in made.items():
            sources[key], shapes[key] = source, shape
    return LaidOutCheckpoint(checkpoint, sources, shapes) if sources else checkpoint


_Made = dict[str, tuple[_Source, tuple[int, ...]]]


def _mixtures(checkpoint: Checkpoint) -> dict[str, _Mixture]:
    """Common name of the module → its experts."""
    mixtures: dict[str, _Mixture] = defaultdict(lambda: _Mixture({}, {}))
    for key in checkpoint.keys():
        module, _, part = common_name(key).removesuffix(".weight").rpartition(".")
        at, _, number = module.rpartition(".")
        part, dimensions = _PARTS.get(part, part), len(checkpoint.shape(key))
        if _holds_experts(module) and dimensions == 3 and part in _FUSED:
            mixtures[module].fused[part] = key
        elif _holds_experts(at) and dimensions == 2 and part in _APART and number in _NUMBERS:
            mixtures[at].apart[int(number), part] = key
    return mixtures


def _holds_experts(module: str) -> bool:
    return module.rpartition(".")[2] == "experts"


def _fuse(checkpoint: Checkpoint, mine: _Mixture, base: Checkpoint, wanted: _Mixture) -> _Made:
    """Stacks from matrices."""
    rows: dict[str, list[tuple[str, ...]]] = {}
    count = len({number for number, _ in mine.apart})
    for part, key in wanted.fused.items():
        parts = ("gate_proj", "up_proj") if part == "gate_up_proj" else (part,)
        if any((number, p) not in mine.apart for number in range(count) for p in parts):
            return {}
        rows[key] = [tuple(mine.apart[number, p] for p in parts) for number in range(count)]
    matrices = {key: _stacked(checkpoint, parts[0]) for key, parts in rows.items()}
    turned = _is_turned([(matrices[key], base.shape(key)[1:]) for key in rows])
    return {
        key: (_Source(tuple(parts), turned=turned), (count, *_oriented(matrices[key], turned)))
        for key, parts in rows.items()
    }


def _take_apart(
    checkpoint: Checkpoint, mine: _Mixture, base: Checkpoint, wanted: _Mixture
) -> _Made:
    """Matrices from stacks."""
    both = "gate_up_proj" in mine.fused
    stack_of = {p: "gate_up_proj" if both and p != "down_proj" else p for _, p in wanted.apart}
    counts = {checkpoint.shape(key)[0] for key in mine.fused.values()}
    if counts != {len({number for number, _ in wanted.apart})}:
        return {}
    if not set(stack_of.values()) <= mine.fused.keys():
        return {}
    pairs = []
    for stack in set(stack_of.values()):
        parts = [(0, part) for part, of in stack_of.items() if of == stack]
        if wanted.apart.keys() >= set(parts):
            keys = [wanted.apart[part] for part in parts]
            pairs.append((_stacked(base, keys), checkpoint.shape(mine.fused[stack])[1:]))
    turned = _is_turned(pairs)
    made: _Made = {}
    for (number, part), key in wanted.apart.items():
        fused = mine.fused[stack_of[part]]
        half = ("gate_proj", "up_proj").index(part) if both and part != "down_proj" else None
        rows, columns = _oriented(checkpoint.shape(fused)[1:], turned)
        shape = (rows if half is None else rows // 2, columns)
        made[key] = _Source(((fused,),), number, half, turned), shape
    return made


def _turn(checkpoint: Checkpoint, mine: _Mixture, base: Checkpoint, wanted: _Mixture) -> _Made:
    """Stacks from transposed stacks."""
    both = {base_key: mine.fused[p] for p, base_key in wanted.fused.items() if p in mine.fused}
    pairs = [(checkpoint.shape(own)[1:], base.shape(key)[1:]) for key, own in both.items()]
    if not _is_turned(pairs):
        return {}
    return {
        key: (
            _Source(((own,),), turned=True),
            (checkpoint.shape(own)[0], *_oriented(checkpoint.shape(own)[1:], True)),
        )
        for key, own in both.items()
    }


def _stacked(checkpoint: Checkpoint, keys: Iterable[str]) -> tuple[int, int]:
    """Shape of matrices above one another."""
    shapes = [checkpoint.shape(key) for key in keys]
    return sum(rows for rows, _ in shapes), shapes[0][1]


def _oriented(shape: Sequence[int], turned: bool) -> tuple[int, int]:
    rows, columns = shape
    return (columns, rows) if turned else (rows, columns)


def _is_turned(pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> bool:
    """Whether matrices fit transposed only. Gate and up, 2I × H, and down, H × I, are never square
    both, so that one of them tells. [D]"""
    pairs = [(tuple(one), tuple(other)) for one, other in pairs]
    return all(one == other[::-1] for one, other in pairs) and any(a != b for a, b in pairs)
