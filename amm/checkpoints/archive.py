"""Reader of what `torch.save` writes, for files that nobody vouches for.

Such a file is a pickle beside the tensors' bytes, and a pickle can run any code when it is loaded.
Here torch's restricted loader builds tensors and nothing else. The bytes are mapped into memory, so
that opening reads only the small pickle.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from amm.checkpoints.files import check_file
from amm.errors import InputError

PICKLE_LIMIT = 2**26
"""Bytes of pickle that are read; a model with 10 000 tensors has about 2²¹."""

_lock = Lock()


class TorchFile:
    """One file that `torch.save` wrote, with a state dict of plain tensors.

    Args:
        file: where it is.

    Raises:
        InputError: see `load_tensors`.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        self._tensors = load_tensors(file)

    def keys(self) -> set[str]:
        """Names of the tensors."""
        return set(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._tensors[key].shape)

    def dtype(self, key: str) -> torch.dtype:
        """Dtype of a tensor."""
        return self._tensors[key].dtype

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """A tensor, or rows of it: a view of the mapped file."""
        return self._tensors[key] if rows is None else self._tensors[key][rows]


def load_tensors(
    file: Path, allowed: Sequence[tuple[type, str]] = (), tensors: Sequence[type] = ()
) -> dict[str, Tensor]:
    """Load a state dict.

    Args:
        file: where it is.
        allowed: (class, name): classes to build where the pickle has these names.
        tensors: subclasses of Tensor that may be values, beside plain tensors and parameters.

    Returns:
        Name → tensor on the CPU, mapped from the file; copy before writing into it.

    Raises:
        InputError: it names anything that isn't allowed, is damaged, or holds anything but tensors
            that are wholly in the file.
    """
    check_file(file)
    _check_archive(file)
    try:
        with _only(allowed):
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(file, error)) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(file, error) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(
            f"{file} isn't a state dict of names and tensors; give the file with the model's"
            " weights."
        )
    plain = (Tensor, torch.nn.Parameter)
    for key, value in state.items():
        if type(value) not in (*plain, *tensors) or (type(value) in plain and not in_file(value)):
            raise InputError(
                f"{file}: {key} isn't a dense tensor whose bytes are in the file; save it again."
            )
    return {key: v.data if type(v) in plain else v for key, v in state.items()}


def in_file(tensor: Tensor) -> bool:
    """Whether a tensor is dense, and no larger than its bytes: not sparse, quantized, expanded."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_nested)
        and tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()
    )


@contextmanager
def _only(allowed: Sequence[tuple[type, str]]) -> Iterator[None]:
    """Put these names in place of whatever the process has declared safe."""
    with _lock:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(allowed))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _check_archive(file: Path) -> None:
    """A zip archive without compression, as torch writes it: it can't unfold to more bytes."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(file, error) from None
    for record in records:
        pickled = record.filename.endswith(".pkl")
        if record.compress_type != zipfile.ZIP_STORED or pickled * record.file_size > PICKLE_LIMIT:
            raise InputError(
                f"{file}: the record {record.filename} is compressed or too large, which torch.save"
                " never does. Don't use this checkpoint unless you trust where it is from."
            )


def _damaged(file: Path, error: Exception) -> InputError:
    reason = next(iter(str(error).splitlines()), "")
    return InputError(
        f"{file} can't be read as a torch checkpoint ({type(error).__name__}: {reason}); copy it"
        " again, or, if torch before 1.6 wrote it, save it as safetensors."
    )


def _refusal(file: Path, error: pickle.UnpicklingError) -> str:
    named = re.search(r"GLOBAL (\S+)|unrecognized function (.+?)$", str(error), re.MULTILINE)
    name = next(filter(None, named.groups())) if named else "an object that isn't a tensor"
    if name.startswith("torch.distributed._shard"):
        return (
            f"{file} holds ShardedTensors, which FSDP1 saves where it has no device mesh, and"
            " which aren't read (verl and EasyR1 save DTensors); gather the model's weights in"
            " the trainer and save them as safetensors."
        )
    return (
        f"{file} names something that a checkpoint of weights doesn't need ({name}), and was"
        " refused: loading it could run code. Use it only if you trust where it is from, and save"
        " its tensors again by themselves."
    )
