"""Reader of FSDP shards as verl and EasyR1 save them: `model_world_size_W_rank_R.pt`.

Each file is a `torch.save` of one rank's state dict, with DTensors (FSDP2, and FSDP1 on a device
mesh) or plain tensors; trainers keep float32 master weights there. A `.pt` file is a pickle, which
can run any code when it is loaded. Here torch's restricted loader builds tensors and, in place of
torch.distributed's classes, inert records with the same names: no process group is needed, no code
of torch.distributed runs, and anything else in the file is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm.errors import InputError

_RANK_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


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
            and local.dim() == self.dim()
            and isinstance(places, tuple)
            and isinstance(at, (tuple, list))
            and len(at) == len(places) > 0
            and all(isinstance(place, (_Shard, _Replicate)) for place in places)
            and all(
                0 <= getattr(place, "dim", -1) < self.dim()
                for place in places
                if isinstance(place, _Shard)
            )
        )


_ALLOWED = [
    (_StoredDTensor, "torch.distributed.tensor.DTensor"),
    (_Spec, "torch.distributed.tensor._dtensor_spec.DTensorSpec"),
    (_OtherRecord, "torch.distributed.tensor._dtensor_spec.TensorMeta"),
    (_OtherRecord, "torch.distributed.tensor._dtensor_spec.ShardOrderEntry"),
    (_OtherRecord, "torch.distributed.device_mesh.DeviceMesh"),
    (_OtherRecord, "torch.distributed._mesh_layout._MeshLayout"),
    (_OtherRecord, "torch.distributed._mesh_layout._FlatLayout"),
    (_Shard, "torch.distributed.tensor.placement_types.Shard"),
    (_Replicate, "torch.distributed.tensor.placement_types.Replicate"),
]
"""All that a shard may name beyond what torch's restricted loader builds by itself."""


@contextmanager
def _only_allowed_globals() -> Iterator[None]:
    """Put the list above in place of whatever the process has declared safe."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


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

    The files are mapped into memory, so that opening reads only the small pickles.

    Raises:
        InputError: a rank is missing, a file is damaged or holds anything but tensors, ranks
            disagree, a placement other than Shard on one mesh dimension and Replicate is used, or
            the weights are a LoRA adapter's.
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
        adapters = sorted(key for key in states[0] if ".lora_" in key or "base_layer" in key)
        if adapters:
            raise InputError(
                f"{path} holds LoRA adapters ({adapters[0]}, …), which aren't merged here;"
                " merge the adapter into its base model first."
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
        parts, dim = tensor.parts, tensor.dim
        if dim is None:
            self._check_copies(key)
            return (parts[0] if rows is None else parts[0][rows]).clone()
        if rows is None:
            return torch.cat(parts, dim)
        if dim != 0:
            return torch.cat([part[rows] for part in parts], dim)
        first, last, _ = rows.indices(tensor.shape[0])
        wanted, offset = [], 0
        for part in parts:
            wanted.append(part[max(first - offset, 0) : max(last - offset, 0)])
            offset += len(part)
        return torch.cat(wanted)

    def describe(self) -> str:
        dtypes = sorted({str(self.dtype(key)).removeprefix("torch.") for key in self._tensors})
        sharded = sum(tensor.dim is not None for tensor in self._tensors.values())
        shards = "1 FSDP shard" if len(self._files) == 1 else f"{len(self._files)} FSDP shards"
        layout = f"{sharded} sharded DTensors" if sharded else "no sharded DTensors"
        return f"{shards}, {len(self._tensors)} tensors ({layout}), {', '.join(dtypes)}"

    def _parts(self, key: str, states: list[dict[str, Tensor]]) -> _Parts:
        held = [state[key] for state in states]
        if not all(type(tensor) is type(held[0]) for tensor in held):
            raise InputError(f"{self.path}: {key} is a DTensor on some ranks only; save it again.")
        if not isinstance(held[0], _StoredDTensor):
            return _Parts(tuple(held[0].shape), held, None)
        placements = held[0]._spec.placements
        sharded = [i for i, place in enumerate(placements) if isinstance(place, _Shard)]
        copied = [i for i, place in enumerate(placements) if isinstance(place, _Replicate)]
        if len(sharded) > 1:
            raise InputError(
                f"{self.path}: {key} is sharded over {len(sharded)} mesh dimensions, which isn't"
                " read; save it from a trainer without tensor parallelism."
            )
        where = [tensor._spec.mesh._coordinate_on_dim for tensor in held]
        local = [tensor._local_tensor for tensor in held]
        shape = tuple(held[0].shape)
        if not sharded:
            return _Parts(shape, local, None)
        axis, dim = sharded[0], placements[sharded[0]].dim
        ordered = sorted((at[axis], rank) for rank, at in enumerate(where) if _first(at, copied))
        parts = [local[rank] for _, rank in ordered]
        found = list(parts[0].shape)
        found[dim] = sum(part.shape[dim] for part in parts)
        if tuple(found) != shape:
            raise InputError(
                f"{self.path}: the parts of {key} make up {tuple(found)}, not {shape}; the files"
                " aren't from one save."
            )
        return _Parts(shape, parts, dim)

    def _check_copies(self, key: str) -> None:
        parts = self._tensors[key].parts
        for file, part in zip(self._files, parts, strict=True):
            if not torch.equal(part, parts[0]):
                raise InputError(
                    f"{file}: {key} has no sharding and differs from the one in"
                    f" {self._files[0].name}; it can't be told which is right."
                )


def _first(coordinate: tuple[int, ...], axes: list[int]) -> bool:
    return all(coordinate[axis] == 0 for axis in axes)


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
    missing = [rank for rank in range(sizes[0]) if (sizes[0], rank) not in found]
    if missing:
        names = ", ".join(f"model_world_size_{sizes[0]}_rank_{rank}.pt" for rank in missing)
        raise InputError(f"{folder} lacks {names}: all {sizes[0]} ranks are needed; copy them too.")
    return [found[sizes[0], rank] for rank in range(sizes[0])]


def _load(file: Path) -> dict[str, Tensor]:
    try:
        with _only_allowed_globals():
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file} names something that a checkpoint of weights doesn't need"
            f" ({_refused(error)}), and was refused: loading it could run code. Use it only if"
            " you trust where it is from, and save its tensors again by themselves."
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f"{file} can't be read as a torch checkpoint ({type(error).__name__}:"
            f" {str(error).splitlines()[0]}); copy it again."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise InputError(f"{file} isn't a state dict of names and tensors; give the model's shard.")
    for key, value in state.items():
        if isinstance(value, _StoredDTensor) and not value.is_complete():
            raise InputError(f"{file}: {key} is a damaged DTensor; save the shard again.")
    return state


def _refused(error: pickle.UnpicklingError) -> str:
    named = re.search(r"GLOBAL (\S+)|unrecognized function (.+?)$", str(error), re.MULTILINE)
    return next(filter(None, named.groups())) if named else "an object that isn't a tensor"
