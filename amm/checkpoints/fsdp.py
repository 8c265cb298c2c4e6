"""Reader of FSDP shards as verl and EasyR1 save them: `model_world_size_W_rank_R.pt`.

Each file is a `torch.save` of one rank's state dict, with DTensors (FSDP2, and FSDP1 on a device
mesh) or plain tensors (FSDP1 on one rank, buffers); trainers keep float32 master weights there.
What their pickles say of torch.distributed's classes is only looked at: no process group is
needed, and no code of torch.distributed runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm.checkpoints.archive import TorchArchive, integers
from amm.checkpoints.base import dtype_name
from amm.checkpoints.files import check_size
from amm.checkpoints.pickles import Called, Name
from amm.errors import InputError

_RANK_FILE = re.compile(r"model_world_size_([1-9][0-9]{0,5})_rank_([0-9]{1,6})\.pt")


_NAMES = (
    "tensor.DTensor",
    "tensor._dtensor_spec.DTensorSpec",
    "tensor._dtensor_spec.TensorMeta",
    "tensor._dtensor_spec.ShardOrderEntry",
    "tensor.placement_types.Shard",
    "tensor.placement_types.Replicate",
    "device_mesh.DeviceMesh",
    "_mesh_layout._MeshLayout",
    "_mesh_layout._FlatLayout",
    # torch before 2.5
    "_tensor.api.DTensor",
    "_tensor.placement_types.DTensorSpec",
    "_tensor.placement_types.TensorMeta",
    "_tensor.placement_types.Shard",
    "_tensor.placement_types.Replicate",
    "_tensor.device_mesh.DeviceMesh",
)
"""Names in torch.distributed: all that a shard may name beyond what makes plain tensors."""

_WRAPPER = "torch._utils._rebuild_wrapper_subclass"
_ALLOWED = (
    *(f"torch.distributed.{name}" for name in _NAMES),
    _WRAPPER,
    "torch.device",
    "torch.serialization._get_layout",
)


@dataclass(frozen=True)
class _StoredDTensor:
    """What a rank has of a DTensor.

    Attributes:
        shape: of the whole tensor.
        local: the rank's own part.
        dims: for each dimension of the mesh, the sharded one of the tensor; None for copies.
        coordinate: the rank's place in the mesh.
    """

    shape: tuple[int, ...]
    local: Tensor
    dims: tuple[int | None, ...]
    coordinate: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.local.dtype


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
        archives = [TorchArchive(file, _ALLOWED) for file in self._files]
        self._sizes = [archive.size for archive in archives]
        states = [_load(archive) for archive in archives]
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
        for file, size in zip(self._files, self._sizes, strict=True):
            check_size(file, size)
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
        dtypes = sorted({dtype_name(self.dtype(key)) for key in self._tensors})
        sharded = sum(tensor.dim is not None for tensor in self._tensors.values())
        shards = "1 FSDP shard" if len(self._files) == 1 else f"{len(self._files)} FSDP shards"
        layout = f"{sharded} sharded DTensors" if sharded else "no sharded DTensors"
        return f"{shards}, {len(self._tensors)} tensors ({layout}), {', '.join(dtypes)}"

    def _parts(self, key: str, states: list[dict[str, Tensor | _StoredDTensor]]) -> _Parts:
        held = [state[key] for state in states]
        if len({(type(tensor), tensor.shape, tensor.dtype) for tensor in held}) > 1:
            raise InputError(
                f"{self.path}: {key} has another kind, shape or dtype on some ranks; the files"
                " aren't from one save."
            )
        shape = tuple(held[0].shape)
        plain = [tensor for tensor in held if isinstance(tensor, Tensor)]
        if plain:
            return _Parts(shape, plain, None)
        stored = [tensor for tensor in held if isinstance(tensor, _StoredDTensor)]
        dims = stored[0].dims
        sharded = [axis for axis, dim in enumerate(dims) if dim is not None]
        if len(sharded) > 1:
            raise InputError(
                f"{self.path}: {key} is sharded over {len(sharded)} mesh dimensions, which isn't"
                " read; save it from a trainer without tensor parallelism."
            )
        where = [tensor.coordinate for tensor in stored]
        self._check_mesh(key, where)
        parts, dim, whole = [tensor.local for tensor in stored], None, False
        if all(tensor.dims == dims for tensor in stored):
            if sharded:
                dim = dims[sharded[0]]
                order = sorted(range(len(stored)), key=lambda rank: where[rank][sharded[0]])
                parts = [parts[rank] for rank in order if _is_first_copy(where[rank], sharded[0])]
            whole = _make_up(parts, dim, shape)
        if not whole:
            raise InputError(
                f"{self.path}: the parts of {key} don't make up its shape, {shape}; the files"
                " aren't from one save."
            )
        return _Parts(shape, parts, dim)

    def _check_mesh(self, key: str, where: Sequence[tuple[int, ...]]) -> None:
        """Each place of the mesh has one rank; a file copied over another's leaves one empty."""
        first: dict[tuple[int, ...], int] = {}
        for rank, place in enumerate(where):
            twin = first.setdefault(place, rank)
            if twin != rank:
                raise InputError(
                    f"{self._files[rank]} says of {key} that it is the part of"
                    f" {self._files[twin].name} (coordinate {', '.join(map(str, place))} of the"
                    " device mesh): one of the two is a copy of the other. Copy the shards again."
                )
        dims = {len(place) for place in where}
        if len(dims) > 1 or math.prod(max(at) + 1 for at in zip(*where, strict=True)) != len(where):
            raise InputError(
                f"{self.path}: the {len(where)} parts of {key} aren't those of one device mesh; the"
                " files aren't from one save."
            )

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
    found: dict[tuple[int, int], Path] = {}
    for file in folder.iterdir():
        match = _RANK_FILE.fullmatch(file.name)
        if match:
            twin = found.setdefault((int(match[1]), int(match[2])), file)
            if twin != file:
                raise InputError(
                    f"{folder} has both {twin.name} and {file.name}, two names of one rank; leave"
                    " the one that is of this run."
                )
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


def _load(archive: TorchArchive) -> dict[str, Tensor | _StoredDTensor]:
    state: dict[str, Tensor | _StoredDTensor] = {}
    for key, value in archive.state.items():
        if _is_dtensor(value):
            state[key] = _read_dtensor(archive, key, value)
        else:
            state[key] = archive.tensor(key, value)
    return state


def _is_dtensor(value: Called) -> bool:
    function = value.arguments[0] if value.arguments else None
    return type(function) is Name and function.name == _WRAPPER


def _read_dtensor(archive: TorchArchive, key: str, value: Called) -> _StoredDTensor:
    """What a shard says of a DTensor; all that isn't looked at is left alone."""
    try:
        _, _, (_, dtype, size, *_), state = value.arguments
        held = _attributes(state)
        spec = _attributes(held["_spec"].state)
        shape, local = integers(size), archive.tensor(f"the part of {key}", held["_local_tensor"])
        at = integers(_attributes(spec["mesh"].state)["_coordinate_on_dim"])
        dims = tuple(_sharded_dim(place, len(shape)) for place in spec["placements"])
        if not len(at) == len(dims) > 0 or local.dim() != len(shape):
            raise ValueError
        if str(local.dtype) != dtype.name:
            raise ValueError
    except InputError:
        raise
    except Exception:  # what isn't a DTensor can fail in any way
        raise InputError(
            f"{archive.file}: {key} is a damaged DTensor; save the shard again."
        ) from None
    return _StoredDTensor(shape, local, dims, at)


def _attributes(state: Any) -> dict[str, Any]:
    """An object's attributes, whether or not it keeps them in slots."""
    parts = state if type(state) is tuple else (state,)
    return {key: value for part in parts if part is not None for key, value in part.items()}


def _sharded_dim(place: Called, dims: int) -> int | None:
    kind = place.name.rpartition(".")[2]
    if kind == "Replicate":
        return None
    dim = place.state["dim"]
    if kind != "Shard" or type(dim) is not int or dim not in range(dims):
        raise ValueError
    return dim
