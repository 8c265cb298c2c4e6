"""Reader of a Hugging Face folder: one safetensors file, or several with an index."""

from __future__ import annotations

import json
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from amm.errors import InputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The names of dtypes in a safetensors header."""


def has_safetensors(folder: Path) -> bool:
    """Whether a folder holds the weights of a model as safetensors."""
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()


class HfCheckpoint:
    """A Hugging Face folder; see `amm.checkpoints.base.Checkpoint`.

    Raises:
        InputError: a shard is missing, damaged or outside the folder, or the index is malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files_folder: Path | None = path
        if (path / SINGLE_FILE).is_file():
            self._files = {SINGLE_FILE: _open(path / SINGLE_FILE)}
            self._file_of = dict.fromkeys(self._files[SINGLE_FILE].keys(), SINGLE_FILE)
        else:
            self._file_of = _read_index(path / INDEX_FILE)
            names = sorted(set(self._file_of.values()))
            missing = [name for name in names if not (path / name).is_file()]
            if missing:
                raise InputError(
                    f"{path} lacks {', '.join(missing)}, which {INDEX_FILE} names;"
                    " download or copy the folder again."
                )
            self._files = {name: _open(path / name) for name in names}
        for name, file in self._files.items():
            absent = {key for key, held_by in self._file_of.items() if held_by == name}
            absent -= set(file.keys())
            if absent:
                raise InputError(
                    f"{path / name} doesn't hold {', '.join(sorted(absent))}, which {INDEX_FILE}"
                    " places there; download or copy the folder again."
                )

    def keys(self) -> list[str]:
        return sorted(self._file_of)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype:
        name = self._slice(key).get_dtype()
        if name not in DTYPES:
            raise InputError(
                f"{self.path / self._file_of[key]}: {key} has dtype {name}, which isn't read;"
                f" save it as one of {', '.join(sorted(DTYPES))}."
            )
        return DTYPES[name]

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        if rows is None:
            return self._files[self._file_of[key]].get_tensor(key)
        return self._slice(key)[rows]

    def describe(self) -> str:
        dtypes = sorted({str(self.dtype(key)).removeprefix("torch.") for key in self._file_of})
        files = "1 safetensors file" if len(self._files) == 1 else f"{len(self._files)} shards"
        return f"Hugging Face folder, {files}, {len(self._file_of)} tensors, {', '.join(dtypes)}"

    def _slice(self, key: str) -> Any:
        return self._files[self._file_of[key]].get_slice(key)


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} isn't a whole safetensors file ({error}); download or copy it again."
        ) from None


def _read_index(file: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        entries = dict(weight_map.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} isn't an index of safetensors files"
            f" ({type(error).__name__}: {error}); download or copy it again."
        ) from None
    for key, name in entries.items():
        bare = isinstance(name, str) and PurePath(name).name == PureWindowsPath(name).name == name
        if not bare or not name.endswith(".safetensors"):
            raise InputError(
                f"{file} places {key} in {name!r}: only .safetensors files beside the index are"
                " read. Don't use this checkpoint unless you trust where it is from."
            )
    return entries
