"""Writer of a Hugging Face folder: streamed safetensors, the donor's other files, one rename.

Everything is written into a hidden folder beside the output, flushed to the disk, and appears
under its name by one rename. A run that is killed leaves only the hidden folder, which the next run
with the same output clears.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from amm.checkpoints.hf import DTYPES, INDEX_FILE, SINGLE_FILE
from amm.errors import InputError

WEIGHT_SUFFIXES = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx")
)
REPORT_FILE = "merge_report.json"
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor of the output: name, shape, dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def is_weight_file(name: str) -> bool:
    """Whether a file holds weights, or is an index of such files."""
    path = Path(name.removesuffix(".index.json"))
    return path.suffix in WEIGHT_SUFFIXES


class OutputFolder:
    """The output folder, whole or not at all; use it as a context.

    Args:
        path: the folder to appear. May exist if it is empty.

    Raises:
        InputError: it exists and isn't empty, or another merge is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.absolute().with_name(f".{path.absolute().name}.partial")

    def __enter__(self) -> OutputFolder:
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"the output {self.path} isn't an empty folder; name a new one.")
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.partial, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            message = f"another merge is writing {self.path}; name another output."
            raise InputError(message) from None
        _clear(self.partial)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                for folder, _, _ in os.walk(self.partial):
                    _flush_folder(Path(folder))
                os.rename(self.partial, self.path)
                _flush_folder(self.partial.parent)
            else:
                shutil.rmtree(self.partial)
        finally:
            os.close(self._lock)

    def copy_files(self, donor: Path) -> list[str]:
        """Copy every file of a folder that isn't weights, byte for byte.

        Hidden files and folders, links to folders, and an older `merge_report.json` are left out.

        Args:
            donor: the folder.

        Returns:
            The copied files' paths relative to it.
        """
        copied = []
        for folder, subfolders, names in os.walk(donor):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                if name.startswith(".") or name == REPORT_FILE or is_weight_file(name):
                    continue
                source = Path(folder, name)
                relative = source.relative_to(donor)
                (self.partial / relative).parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as reader, (self.partial / relative).open("xb") as writer:
                    shutil.copyfileobj(reader, writer)
                    _flush(writer)
                copied.append(str(relative))
        return copied

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file with sorted keys."""
        with (self.partial / name).open("x", encoding="utf-8") as file:
            json.dump(content, file, indent=2, sort_keys=True, ensure_ascii=False)
            file.write("\n")
            _flush(file)


class SafetensorsWriter:
    """Writes planned tensors one after the other into safetensors files of bounded size.

    A file's header is known from the plan, so that a tensor's bytes go to the disk as they come and
    no more than a block is in memory.

    Args:
        folder: where the files go.
        entries: all tensors.
        max_shard_size: bytes of tensors in a file; a larger tensor has a file of its own.

    Attributes:
        plan: the tensors in the order in which they must be written: wider dtypes first, which
            keeps each aligned to its width, as readers ask.
    """

    def __init__(self, folder: Path, entries: Sequence[Entry], max_shard_size: int) -> None:
        self.plan = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
        self._folder = folder
        shards = _shards(self.plan, max_shard_size)
        count = len(shards)
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        self._shards = dict(zip(names if count > 1 else [SINGLE_FILE], shards, strict=True))
        self._places = [(entry, name) for name, shard in self._shards.items() for entry in shard]
        self._next = 0
        self._file: BinaryIO | None = None

    def write(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Write the next tensor of the plan.

        Args:
            name: its name.
            blocks: consecutive blocks of its rows, together of the planned shape and dtype.

        Raises:
            ValueError: it isn't the next of the plan, or not of its size or dtype.
        """
        entry, file_name = self._places[self._next]
        if entry.name != name:
            raise ValueError(f"the next tensor of the plan is {entry.name}, not {name}")
        if entry is self._shards[file_name][0]:
            self._open(file_name)
        written = 0
        for block in blocks:
            if block.dtype != entry.dtype:
                raise ValueError(f"{name} is planned as {entry.dtype}, not {block.dtype}")
            raw = block.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._file.write(raw.data)
            written += raw.nbytes
        if written != entry.size:
            raise ValueError(f"{name} is planned with {entry.size} bytes, not {written}")
        self._next += 1
        if entry is self._shards[file_name][-1]:
            self._close()

    def finish(self) -> None:
        """Write the index, if there are several files.

        Raises:
            ValueError: tensors of the plan are missing.
        """
        if self._next < len(self._places):
            raise ValueError(f"{self._places[self._next][0].name} was planned, and never written")
        if len(self._shards) == 1:
            return
        index = {
            "metadata": {"total_size": sum(entry.size for entry, _ in self._places)},
            "weight_map": {entry.name: file for entry, file in self._places},
        }
        with (self._folder / INDEX_FILE).open("x", encoding="utf-8") as file:
            json.dump(index, file, indent=2, sort_keys=True)
            file.write("\n")
            _flush(file)

    def _open(self, file_name: str) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for entry in self._shards[file_name]:
            header[entry.name] = {
                "dtype": _DTYPE_NAMES[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": [offset, offset + entry.size],
            }
            offset += entry.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = (self._folder / file_name).open("xb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def _close(self) -> None:
        _flush(self._file)
        self._file.close()


def _shards(plan: Sequence[Entry], max_shard_size: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in plan:
        if shards[-1] and size + entry.size > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def _clear(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
