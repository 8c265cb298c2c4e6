"""Reader of a Hugging Face folder: one weight file, or several with an index.

Safetensors, or `pytorch_model.bin` from before them where there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from amm.checkpoints.archive import TorchFile
from amm.checkpoints.base import DTYPES, dtype_name
from amm.checkpoints.files import (
    check_file,
    check_index,
    check_size,
    is_there,
    parse_json,
    read_index,
    read_json,
)
from amm.errors import InputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEADER_LIMIT = 2**25
"""Bytes of a header that are parsed; a file with 10 000 tensors has about 2²⁰."""


class SafetensorsFile:
    """One safetensors file, mapped into memory.

    Args:
        file: where it is.

    Raises:
        InputError: it isn't a whole safetensors file.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        check_file(file)
        self._size = file.stat().st_size
        header = _header(file)
        try:
            self._handle = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file} isn't a whole safetensors file ({error}); download or copy it again."
            ) from None
        self._views: dict[str, Tensor] = {}
        self._entries = {
            key: (entry["dtype"], tuple(entry["shape"]))
            for key, entry in header.items()
            if key != "__metadata__"
        }

    def keys(self) -> set[str]:
        """Names of the tensors."""
        return set(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._entries[key][1]

    def dtype(self, key: str) -> torch.dtype:
        """Dtype of a tensor.

        Raises:
            InputError: it isn't one of `DTYPES`.
        """
        name = self._entries[key][0]
        if name not in DTYPES:
            raise InputError(
                f"{self.path}: {key} has dtype {name}, which isn't read; save it as one of"
                f" {', '.join(sorted(DTYPES))}."
            )
        return DTYPES[name]

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """A tensor, or rows of it: a view of the mapped file."""
        check_size(self.path, self._size)
        if key not in self._views:
            self._views[key] = self._handle.get_tensor(key)
        view = self._views[key]
        return view if rows is None else view[rows]


@dataclass(frozen=True)
class _Format:
    """Names of the files of one format, and what opens one of them."""

    single: str
    index: str
    suffix: str
    open: Callable[[Path], SafetensorsFile | TorchFile]

    def is_in(self, folder: Path) -> bool:
        return is_there(folder / self.single) or is_there(folder / self.index)


_FORMATS = (
    _Format(SINGLE_FILE, INDEX_FILE, ".safetensors", SafetensorsFile),
    _Format("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin", TorchFile),
)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds the weights of a model as transformers saves them."""
    return any(form.is_in(folder) for form in _FORMATS)


def weight_files(folder: Path) -> set[str]:
    """Names of the files that hold the model's weights, of every format, and of their indexes."""
    names: set[str] = set()
    for form in _FORMATS:
        names |= {form.single, form.index}
        try:
            placed = read_json(folder / form.index, "an index of weight files").get("weight_map")
        except InputError:  # of another format than the one that is read, or not there
            continue
        values = placed.values() if isinstance(placed, dict) else ()
        names |= {name for name in values if isinstance(name, str)}
    return names


class HfCheckpoint:
    """A Hugging Face folder; see `amm.checkpoints.base.Checkpoint`.

    Raises:
        InputError: a shard is missing, damaged or outside the folder, or the index is malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files_folder: Path | None = path
        self._format = next(form for form in _FORMATS if form.is_in(path))
        single, index, suffix = self._format.single, self._format.index, self._format.suffix
        if is_there(path / single):
            self._files = {single: self._format.open(path / single)}
            self._file_of = dict.fromkeys(self._files[single].keys(), single)
        else:
            self._file_of = read_index(path / index, suffix)
            names = sorted(set(self._file_of.values()))
            self._files = {name: self._format.open(path / name) for name in names}
            held = {name: file.keys() for name, file in self._files.items()}
            check_index(path / index, self._file_of, held)

    def keys(self) -> list[str]:
        return sorted(self._file_of)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._file(key).shape(key)

    def dtype(self, key: str) -> torch.dtype:
        return self._file(key).dtype(key)

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        return self._file(key).read(key, rows)

    def files(self) -> list[Path]:
        return [self.path / name for name in self._files]

    def describe(self) -> str:
        dtypes = sorted({dtype_name(self.dtype(key)) for key in self._file_of})
        kind = "safetensors" if self._format.single == SINGLE_FILE else ".bin"
        count = len(self._files)
        files = f"1 {kind} file" if count == 1 else f"{count} shards of {kind}"
        return f"Hugging Face folder, {files}, {len(self._file_of)} tensors, {', '.join(dtypes)}"

    def _file(self, key: str) -> SafetensorsFile | TorchFile:
        return self._files[self._file_of[key]]


def _header(file: Path) -> dict[str, Any]:
    """The header; safetensors, which checks all else, takes the last of two equal names."""
    with file.open("rb") as content:
        size = int.from_bytes(content.read(8), "little")
        if size > HEADER_LIMIT:
            raise InputError(
                f"{file} isn't a whole safetensors file (a header of {size:,} bytes); download or"
                " copy it again."
            )
        return parse_json(content.read(size), file, "a whole safetensors file")
