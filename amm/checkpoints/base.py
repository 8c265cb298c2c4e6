"""What every checkpoint reader offers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

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


def dtype_name(dtype: torch.dtype) -> str:
    """As config.json names it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


class Tensors(Protocol):
    """Tensors by name: a file's, or a checkpoint's."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        ...

    def dtype(self, key: str) -> torch.dtype:
        """Dtype that `read` returns: the stored one, or float32 where a LoRA adapter is added."""
        ...

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """The tensor, or the given rows of it, on the CPU. Thread-safe.

        It may be a view of a mapped file, whose pages are read when they are touched: don't write
        into it.

        Args:
            key: its name.
            rows: a slice of the first dimension without a step; None reads all, and is the only
                choice for a tensor without dimensions.

        Raises:
            InputError: the file is damaged or doesn't hold it.
        """
        ...


class Checkpoint(Tensors, Protocol):
    """Read access to one model's weights, a tensor at a time.

    Attributes:
        path: the folder that the weights are in.
        files_folder: the folder with configuration, tokenizer and processor, or None.
    """

    path: Path
    files_folder: Path | None

    def keys(self) -> list[str]:
        """Names of the tensors, in a fixed order."""
        ...

    def files(self) -> list[Path]:
        """All files that decide what is read, for content hashes; of a LoRA adapter, its base's
        too."""
        ...

    def describe(self) -> str:
        """One line that says in words what was found."""
        ...


class GatheredCheckpoint:
    """Tensors of a checkpoint under other names, and some of others; see `Checkpoint`.

    Args:
        main: what it stands for; its files are taken for all.
        sources: name → the checkpoint that has the tensor, and its key there.
    """

    def __init__(self, main: Checkpoint, sources: Mapping[str, tuple[Checkpoint, str]]) -> None:
        self.path = main.path
        self.files_folder = main.files_folder
        self._main = main
        self._sources = sources

    def keys(self) -> list[str]:
        return sorted(self._sources)

    def shape(self, key: str) -> tuple[int, ...]:
        checkpoint, name = self._sources[key]
        return checkpoint.shape(name)

    def dtype(self, key: str) -> torch.dtype:
        checkpoint, name = self._sources[key]
        return checkpoint.dtype(name)

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        checkpoint, name = self._sources[key]
        return checkpoint.read(name, rows)

    def files(self) -> list[Path]:
        return self._main.files()

    def describe(self) -> str:
        return self._main.describe()
