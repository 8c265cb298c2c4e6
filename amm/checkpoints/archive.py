"""Reader of what `torch.save` writes, for files that nobody vouches for.

Such a file is a zip archive: a pickle beside the tensors' bytes. The pickle is read without a call
of anything that it names (see `amm.checkpoints.pickles`), and the bytes are mapped into memory, so
that opening reads only the small pickle.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm.checkpoints.base import DTYPES, dtype_name
from amm.checkpoints.files import check_file, check_names, check_size
from amm.checkpoints.pickles import Called, Name, RefusedPickle, Stored, read_pickle
from amm.errors import InputError

PICKLE_LIMIT = 2**26
"""Bytes of pickle that are read; a model with 10 000 tensors has about 2²¹."""

DIRECTORY_LIMIT = 2**24
"""Bytes of a zip archive's list of records; a model with 10 000 tensors has about 2²⁰."""

_CHUNK = 2**22
_RECORD_START = b"PK\x03\x04"

_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_TENSOR_WITH_DTYPE = "torch._utils._rebuild_tensor_v3"
_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_NAMES = {
    *_STORAGES,
    *_DTYPES,
    *_TENSOR,
    _TENSOR_WITH_DTYPE,
    *_PARAMETER,
    _FROM_TYPE,
    "collections.OrderedDict",
    "torch.Size",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
}
"""All that the pickle of a state dict of dense tensors may name."""


class TorchFile:
    """One file that `torch.save` wrote, with a state dict of plain tensors.

    Args:
        file: where it is.

    Raises:
        InputError: see `TorchArchive`, or it holds anything but tensors that are wholly in it.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        archive = TorchArchive(file)
        self._size = archive.size
        self._tensors = {key: archive.tensor(key, value) for key, value in archive.state.items()}

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
        check_size(self.path, self._size)
        return self._tensors[key] if rows is None else self._tensors[key][rows]


class TorchArchive:
    """A state dict in a file that `torch.save` wrote.

    Args:
        file: where it is.
        names: what its pickle may name beside what makes plain tensors.

    Attributes:
        file: where it is.
        size: its bytes.
        state: name → what the pickle has there, see `amm.checkpoints.pickles`.

    Raises:
        InputError: it names anything that isn't allowed, is damaged, or isn't a state dict.
    """

    def __init__(self, file: Path, names: Collection[str] = ()) -> None:
        check_file(file)
        self.file = file
        try:
            self._open({*_NAMES, *names})
        except RefusedPickle as error:
            raise InputError(_refusal(file, str(error))) from None
        except InputError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            raise _damaged(file, error) from None
        if not isinstance(self.state, dict) or not all(
            type(key) is str and type(value) is Called for key, value in self.state.items()
        ):
            raise InputError(
                f"{file} isn't a state dict of names and tensors; give the file with the model's"
                " weights."
            )
        check_names(self.state, file)

    def _open(self, names: Collection[str]) -> None:
        self._records = _records(self.file)
        (pickled,) = (name for name in self._records if name.endswith("/data.pkl"))
        self._root = pickled.removesuffix("data.pkl")
        order = self._content("byteorder", 16) if f"{self._root}byteorder" in self._records else b""
        if order not in (b"", b"little"):
            raise ValueError(f"its bytes are in {order.decode()} order, and only little is read")
        self.state = read_pickle(self._content("data.pkl", PICKLE_LIMIT), names)
        self.size = self.file.stat().st_size
        self._bytes = torch.UntypedStorage.from_file(str(self.file), False, self.size)
        self._storages: dict[str, torch.UntypedStorage] = {}

    def _content(self, name: str, limit: int) -> bytes:
        """A record that isn't a tensor's."""
        record = self._records[self._root + name]
        if record.size > limit:
            raise RefusedPickle(f"{record.size:,} bytes of {name}")
        with self.file.open("rb") as file:
            file.seek(record.start)
            content = file.read(record.size)
        if record.checksum and zlib.crc32(content) != record.checksum:
            raise ValueError(f"the checksum of {name} is wrong")
        return content

    def tensor(self, key: str, value: Any) -> Tensor:
        """A dense tensor or parameter, mapped from the file; copy before writing into it.

        Args:
            key: the tensor's name, for messages.
            value: what the pickle has for it.

        Raises:
            InputError: it isn't one, or more than its bytes in the file, or has another dtype than
                `DTYPES`.
        """
        while type(value) is Called and value.arguments and value.name in _PARAMETER:
            value = value.arguments[0]
        if type(value) is Called and value.name == _FROM_TYPE and len(value.arguments) == 4:
            function, _, arguments, _ = value.arguments
            if type(function) is Name and type(arguments) is tuple:
                value = Called(function.name, arguments)
        try:
            return self._dense(value)
        except _NotReadError as error:
            raise InputError(
                f"{self.file}: {key} has dtype {error}, which isn't read; save it as one of"
                f" {', '.join(str(dtype) for dtype in DTYPES.values())}."
            ) from None
        except Exception:  # what isn't a tensor can fail in any way
            raise InputError(
                f"{self.file}: {key} isn't a dense tensor whose bytes are in the file; save it"
                " again."
            ) from None

    def _dense(self, value: Any) -> Tensor:
        if type(value) is not Called or value.name not in (*_TENSOR, _TENSOR_WITH_DTYPE):
            raise ValueError
        stored, offset, shape, stride = value.arguments[:4]
        record, dtype = self._storage(stored)
        if value.name == _TENSOR_WITH_DTYPE:
            dtype = _DTYPES[value.arguments[6].name]
        if dtype not in DTYPES.values():
            raise _NotReadError(dtype_name(dtype))
        shape, stride = integers(shape), integers(stride)
        (offset,) = integers((offset,))
        held = len(record) // dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        empty = 0 in shape
        if math.prod(shape) > held or (last >= held and not empty):
            raise ValueError
        values = torch.empty(0, dtype=dtype)
        return values.new_empty(shape) if empty else values.set_(record, offset, shape, stride)

    def _storage(self, stored: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        """Bytes and dtype of a storage; it is as large as its record."""
        if type(stored) is not Stored:
            raise ValueError
        kind, storage, name, _, count = stored.identity
        if kind != "storage" or type(storage) is not Name or type(name) is not str:
            raise ValueError
        dtype = _STORAGES[storage.name]
        record = self._records[f"{self._root}data/{name}"]
        if integers((count,))[0] * dtype.itemsize != record.size:
            raise ValueError
        if name not in self._storages:
            self._storages[name] = self._bytes[record.start : record.start + record.size]
        return self._storages[name], dtype


class _NotReadError(Exception):
    """A dtype that isn't among those of safetensors."""


def integers(value: Any) -> tuple[int, ...]:
    """The numbers of a `torch.Size`, tuple or list.

    Raises:
        ValueError: they aren't, or some are negative or beyond 63 bits.
    """
    if type(value) is Called and value.name == "torch.Size":
        (value,) = value.arguments
    if type(value) not in (tuple, list) or len(value) > 64:
        raise ValueError("not a few numbers")
    if not all(type(number) is int and 0 <= number < 2**63 for number in value):
        raise ValueError("not whole numbers")
    return tuple(value)


@dataclass(frozen=True)
class _RecordPlace:
    """Where a record's bytes are in the file, and their CRC-32, 0 where none was written."""

    start: int
    size: int
    checksum: int


class _BoundedFile(io.FileIO):
    """A zip archive whose list of records is of a bounded size."""

    def read(self, size: int | None = -1) -> bytes:
        most = DIRECTORY_LIMIT + 1
        content = super().read(most if size is None or size < 0 else min(size, most))
        if len(content) > DIRECTORY_LIMIT:
            raise ValueError(f"its list of records has more than {DIRECTORY_LIMIT:,} bytes")
        return content


def _records(file: Path) -> dict[str, _RecordPlace]:
    """The records of a zip archive without compression: it can't unfold to more bytes."""
    records = {}
    with _BoundedFile(file) as content, zipfile.ZipFile(content) as archive:
        size = content.seek(0, io.SEEK_END)
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                raise RefusedPickle(f"the compressed or encrypted record {record.filename}")
            content.seek(record.header_offset)
            header = content.read(30)
            start = record.header_offset + len(header)
            start += int.from_bytes(header[26:28], "little") + int.from_bytes(
                header[28:30], "little"
            )
            if header[:4] != _RECORD_START or start + record.file_size > size:
                raise ValueError(f"the record {record.filename} isn't wholly there")
            if record.filename in records:
                raise ValueError(f"the record {record.filename} is there twice")
            records[record.filename] = _RecordPlace(start, record.file_size, record.CRC)
    return records


def check_checksums(file: Path) -> None:
    """Compare the records of a file of torch.save, if it is one, with the checksums it has.

    Raises:
        InputError: some record was changed.
    """
    with file.open("rb") as content:
        if content.read(4) != _RECORD_START:
            return
        for name, record in _records(file).items():
            content.seek(record.start)
            checksum, left = 0, record.size
            while left and (chunk := content.read(min(left, _CHUNK))):
                checksum, left = zlib.crc32(chunk, checksum), left - len(chunk)
            if record.checksum not in (0, checksum):
                raise InputError(
                    f"{file}: the record {name} isn't what was saved (its checksum is wrong); copy"
                    " the file again."
                )


def _damaged(file: Path, error: Exception) -> InputError:
    reason = next(iter(str(error).splitlines()), "")[:200]
    return InputError(
        f"{file} can't be read as a torch checkpoint ({type(error).__name__}: {reason}); copy it"
        " again, or, if torch before 1.6 wrote it, save it as safetensors."
    )


def _refusal(file: Path, name: str) -> str:
    if name.startswith("torch.distributed._shard"):
        return (
            f"{file} holds ShardedTensors, which FSDP1 saves where it has no device mesh, and"
            " which aren't read (verl and EasyR1 save DTensors); gather the model's weights in"
            " the trainer and save them as safetensors."
        )
    if name.startswith("torch._utils._rebuild_"):
        return f"{file} holds a tensor that isn't dense ({name}); save it again as a dense one."
    return (
        f"{file} has something that a checkpoint of weights doesn't need ({name[:200]}), and was"
        " refused: loading it could run code. Use it only if you trust where it is from, and save"
        " its tensors again by themselves."
    )
