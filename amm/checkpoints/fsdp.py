"""Reader of FSDP shards as verl and EasyR1 save them: `model_world_size_W_rank_R.pt`.

Each file is a `torch.save` of one rank's state dict, with DTensors (FSDP2, and FSDP1 on a device
mesh) or plain tensors (FSDP1 on one rank, buffers); trainers keep float32 master weights there.
In place of torch.distributed's classes inert records with the same names are built: no process
group is needed, and no code of torch.distributed runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm.checkpoints.archive import in_file, load_tensors
from amm.errors import InputError

_RANK_FILE = re.compile(r"model_world_size_([1-9]\d{0,5})_rank_(\d{1,6})\.pt")


class _Record:
    """Stands for a class of torch.distributed: keeps what the pickle says, and does nothing."""

    args: tuple[Any, ...]

    def __new__(cls, *args: Any) -> _Record:
        record = super().__new__(cls)
        record.args = args
        return record

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Spec(_Record):
    mesh: _Record
    placements: tuple[_Record, ...]


class _Shard(_Record):
    dim: int


class _Replicate(_Record):
    pass


class _OtherRecord(_Record):
    pass


class _StoredDTensor(torch.Tensor):
    """Stands for DTensor: holds the rank's own part and the spec."""

    _local_tensor: Tensor
    _spec: _Spec

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError("a stored DTensor is only a record of its parts")

    def __setstate__(self, state: tuple[Any, dict[str, Any]]) -> None:
        self.__dict__.update(state[1])

    def is_complete(self) -> bool:
        """Whether all that the reader uses is there and makes sense together."""
        spec = self.__dict__.get("_spec")
        places = getattr(spec, "placements", ())
        at = getattr(getattr(spec, "mesh", None), "_coordinate_on_dim", None)
        local = self.__dict__.get("_local_tensor")
        return (
            type(local) is torch.Tensor
            and in_file(local)
            and local.dtype == self.dtype
            and local.dim() == self.dim()
            and isinstance(places, tuple)
            and isinstance(at, (tuple, list))
            and len(at) == len(places) > 0
            and all(type(coordinate) is int for coordinate in at)
            and all(isinstance(place, (_Shard, _Replicate)) for place in places)
            and all(dim is None or dim in range(self.dim()) for dim in self.sharded_dims())
        )

    def sharded_dims(self) -> list[int | None]:
        """For each dimension of the mesh, the sharded dimension of the tensor; None for copies."""
        return [
            getattr(place, "dim", -1) if isinstance(place, _Shard) else None
            for place in self._spec.placements
        ]


_NAMES = {
    "tensor.DTensor": _StoredDTensor,
    "tensor._dtensor_spec.DTensorSpec": _Spec,
    "tensor._dtensor_spec.TensorMeta": _OtherRecord,
    "tensor._dtensor_spec.ShardOrderEntry": _OtherRecord,
    "tensor.placement_types.Shard": _Shard,
    "tensor.placement_types.Replicate": _Replicate,
    "device_mesh.DeviceMesh": _OtherRecord,
    "_mesh_layout._MeshLayout": _OtherRecord,
    "_mesh_layout._FlatLayout": _OtherRecord,
    # torch before 2.5
    "_tensor.api.DTensor": _StoredDTensor,
    "_tensor.placement_types.DTensorSpec": _Spec,
    "_tensor.placement_types.TensorMeta": _OtherRecord,
    "_tensor.placement_types.Shard": _Shard,
    "_tensor.placement_types.Replicate": _Replicate,
    "_tensor.device_mesh.DeviceMesh": _OtherRecord,
}
"""Names in torch.distributed: all that a shard may name beyond what makes plain tensors."""

_ALLOWED = [(record, f"torch.distributed.{name}") for name, record in _NAMES.items()]


@dataclass(frozen=True)
class _Parts:
    """One tensor: its parts in order along `dim`, or copies of the whole when `dim` is None."""

    shape: tuple[int, ...]
    parts: list[Tensor]
    dim: int | None


def find_rank_folder(path: Path) -> Path | None:
    """The folder of rank files for a `global_step_N`, its `actor`, or that folder itself."""
    for folder in (path, path / "actor"):
        if folder.is_dir() and any(_RANK_FILE.fullmatch(file.name) for file in folder.iterdir()):
            return folder
    return None


class FsdpCheckpoint:
    """A folder of FSDP shards; see `amm.checkpoints.base.Checkpoint`.

    The files are mapped into memory, so that opening reads only the small pickles. Tensors of a
    LoRA adapter are tensors like others here; `amm.checkpoints.lora` merges them.

    Raises:
        InputError: a rank is missing, a file is damaged or holds anything but tensors, ranks
            disagree, or a placement other than Shard on one mesh dimension and Replicate is used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files_folder = path / "huggingface" if (path / "huggingface").is_dir() else None
        self._files = _rank_files(path)
        states = [_load(file) for file in self._files]
        for file, state in zip(self._files, states, strict=True):
            differing = sorted(set(state) ^ set(states[0]))
            if differing:
                raise InputError(
                    f"{file} and {self._files[0].name} hold different tensors"
                    f" ({', '.join(differing[:5])}); they aren't shards of one checkpoint."
                )
        self._tensors = {key: self._parts(key, states) for key in states[0]}

    def keys(self) -> list[str]:
        return sorted(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._tensors[key].shape

    def dtype(self, key: str) -> torch.dtype:
        return self._tensors[key].parts[0].dtype

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        tensor = self._tensors[key]
        if tensor.dim == 0 and rows is not None:
            first, last, _ = rows.indices(tensor.shape[0])
            parts, offset = [], 0
            for part in tensor.parts:
                parts.append(part[max(first - offset, 0) : max(last - offset, 0)])
                offset += len(part)
        else:
            parts = [part if rows is None else part[rows] for part in tensor.parts]
        if tensor.dim is None:
            self._check_copies(key, parts)
            return parts[0]
        held = [part for part in parts if part.shape[tensor.dim]]
        return held[0] if len(held) == 1 else torch.cat(parts, tensor.dim)

    def files(self) -> list[Path]:
        return self._files

    def describe(self) -> str:
        dtypes = sorted({str(self.dtype(key)).removeprefix("torch.") for key in self._tensors})
        sharded = sum(tensor.dim is not None for tensor in self._tensors.values())
        shards = "1 FSDP shard" if len(self._files) == 1 else f"{len(self._files)} FSDP shards"
        layout = f"{sharded} sharded DTensors" if sharded else "no sharded DTensors"
        return f"{shards}, {len(self._tensors)} tensors ({layout}), {', '.join(dtypes)}"

    def _parts(self, key: str, states: list[dict[str, Tensor]]) -> _Parts:
        held = [state[key] for state in states]
        if len({(type(tensor), tensor.shape, tensor.dtype) for tensor in held}) > 1:
            raise InputError(
                f"{self.path}: {key} has another kind, shape or dtype on some ranks; the files"
                " aren't from one save."
            )
        shape = tuple(held[0].shape)
        if not isinstance(held[0], _StoredDTensor):
            return _Parts(shape, held, None)
        dims = held[0].sharded_dims()
        sharded = [axis for axis, dim in enumerate(dims) if dim is not None]
        if len(sharded) > 1:
            raise InputError(
                f"{self.path}: {key} is sharded over {len(sharded)} mesh dimensions, which isn't"
                " read; save it from a trainer without tensor parallelism."
            )
        parts, dim, whole = [tensor._local_tensor for tensor in held], None, False
        if all(tensor.sharded_dims() == dims for tensor in held):
            if sharded:
                dim = dims[sharded[0]]
                where = [tensor._spec.mesh._coordinate_on_dim for tensor in held]
                order = sorted(range(len(held)), key=lambda rank: where[rank][sharded[0]])
                parts = [parts[rank] for rank in order if _is_first_copy(where[rank], sharded[0])]
            whole = _make_up(parts, dim, shape)
        if not whole:
            raise InputError(
                f"{self.path}: the parts of {key} don't make up its shape, {shape}; the files"
                " aren't from one save."
            )
        return _Parts(shape, parts, dim)

    def _check_copies(self, key: str, parts: list[Tensor]) -> None:
        for file, part in zip(self._files, parts, strict=True):
            if part.shape != parts[0].shape or not torch.equal(part, parts[0]):
                raise InputError(
                    f"{file}: {key} has no sharding and differs from the one in"
                    f" {self._files[0].name}; it can't be told which is right."
                )


def _is_first_copy(coordinate: tuple[int, ...], sharded: int) -> bool:
    return all(at == 0 for axis, at in enumerate(coordinate) if axis != sharded)


def _make_up(parts: list[Tensor], dim: int | None, shape: tuple[int, ...]) -> bool:
    """Whether parts along a dimension, or copies, make up a tensor of that shape."""
    if dim is None:
        return all(part.shape == shape for part in parts)
    expected = [(*shape[:dim], part.shape[dim], *shape[dim + 1 :]) for part in parts]
    fit = all(part.shape == size for part, size in zip(parts, expected, strict=True))
    return fit and sum(part.shape[dim] for part in parts) == shape[dim]


def _rank_files(folder: Path) -> list[Path]:
    found = {}
    for file in folder.iterdir():
        match = _RANK_FILE.fullmatch(file.name)
        if match:
            found[int(match[1]), int(match[2])] = file
    sizes = sorted({size for size, _ in found})
    if len(sizes) > 1:
        raise InputError(
            f"{folder} has shards of several world sizes ({', '.join(map(str, sizes))}); leave"
            " those of one run only."
        )
    gaps = (rank for rank in range(sizes[0]) if (sizes[0], rank) not in found)
    missing = [f"model_world_size_{sizes[0]}_rank_{rank}.pt" for rank in islice(gaps, 5)]
    if missing:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}: all {sizes[0]} ranks are needed; copy them too."
        )
    return [found[sizes[0], rank] for rank in range(sizes[0])]


def _load(file: Path) -> dict[str, Tensor]:
    state = load_tensors(file, _ALLOWED, (_StoredDTensor,))
    for key, value in state.items():
        if isinstance(value, _StoredDTensor) and not value.is_complete():
            raise InputError(f"{file}: {key} is a damaged DTensor; save the shard again.")
    return state
