"""Writer of a Hugging Face folder: streamed safetensors, the donor's other files, one rename.

Everything is written into a hidden folder beside the output, flushed to the disk, and appears
under its name by one rename. Where each tensor's bytes go is known beforehand, so that a run that
was killed can be resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from amm.checkpoints.base import DTYPES
from amm.checkpoints.files import JSON_LIMIT
from amm.checkpoints.hf import INDEX_FILE, SINGLE_FILE
from amm.errors import InputError
from amm.text import size_text

logger = logging.getLogger("amm")

SETTLE_SECONDS = 0.5
"""How long a process that takes a dead one's lock file over waits for another that does, too."""
_CHUNK = 2**22
_WRITE_BACK = 2**25
_OPEN_FILES = 64
_MARK = "unfinished-merge-of-amm"
"""A folder that is made first in the hidden folder, which tells it from a folder of the user's."""

_PROBE = "probe"
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


class OutputFolder:
    """The output folder, whole or not at all; use it as a context.

    Args:
        path: the folder to appear. May exist if it is empty, also behind a link.

    Attributes:
        path: the same.
        work: the hidden folder beside it, `.<name>.partial`, which only one process may use. Nobody
            else may write into it, and it holds no links.
        partial: the folder in it that becomes the output.
        keep: leave the hidden folder after an error, for another run to resume from.

    Raises:
        InputError: it exists and isn't empty, can't be put in its place in the end, or another
            merge is writing it; or there is such a hidden folder that no merge of this user left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target = Path(os.path.realpath(path))
        self.work = self._target.parent / f".{self._target.name}.partial"
        self.partial = self.work / "model"
        self.keep = False
        self._lock_file = self.work.with_suffix(".lock")

    def __enter__(self) -> OutputFolder:
        self._check_empty()
        self._lock = self._locked()
        try:
            self._check_own()
            self._check_empty()
            self._try_rename()
            self.partial.mkdir(exist_ok=True)
        except BaseException:
            if os.listdir(self.work) == [_MARK]:
                shutil.rmtree(self.work, ignore_errors=True)
            self._unlock()
            raise
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
                os.rename(self.partial, self._target)
                _flush_folder(self.work.parent)
            if kind is None or not self.keep:
                shutil.rmtree(self.work)
        finally:
            self._unlock()

    def clear(self, keep: Iterable[str] = ()) -> None:
        """Remove what an earlier run left in `partial`, but for the files that are named."""
        for child in self.partial.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name not in keep:
                child.unlink()

    def copy_files(
        self, donor: Path, files: Iterable[str], own: Collection[str] = ()
    ) -> dict[str, str]:
        """Copy what a folder has beside weights, byte for byte; see `amm.checkpoints.donor`.

        Args:
            donor: the folder.
            files: which, as paths relative to it.
            own: names that the merge writes files under itself; the donor's files of these names
                are kept as `README.base.md` and so on, and as `README.base2.md` where it has that.

        Returns:
            The copied files' paths relative to the donor → their paths in the output.

        Raises:
            InputError: a file is a link that leaves the folder, other than into the blobs of the
                Hub's cache, or no ordinary file; or a folder, or a huge file, has a name of `own`.
        """
        home = donor.resolve()
        homes = (home, home.parent.parent / "blobs")
        for name in sorted(own):
            if (donor / name).is_dir():
                raise InputError(
                    f"{donor / name} is a folder, and the merge writes a file of that name;"
                    " rename it, or name another copy_files_from."
                )
        copied = {name: _free_name(donor, name) if name in own else name for name in files}
        for name, kept in copied.items():
            source, target = donor / name, self.partial / kept
            real = source.resolve()
            if not real.is_file() or not any(map(real.is_relative_to, homes)):
                raise InputError(
                    f"{source} leads to {real}, which isn't an ordinary file of {donor} and"
                    " isn't copied into a model; remove it, or name another copy_files_from."
                )
            if name in own and real.stat().st_size > JSON_LIMIT:
                raise InputError(
                    f"{source} has {real.stat().st_size:,} bytes, too many for a file of that name;"
                    " replace it, or name another copy_files_from."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as reader, target.open("xb") as writer:
                shutil.copyfileobj(reader, writer)
                _flush(writer)
        return copied

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file with sorted keys."""
        self.write_text(name, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False))

    def write_text(self, name: str, text: str) -> None:
        """Write a text in UTF-8; bytes of file names that aren't UTF-8 as escapes of JSON's."""
        self.write_bytes(name, text.encode(errors="backslashreplace") + b"\n")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file; there is none of that name yet."""
        with (self.partial / name).open("xb") as file:
            file.write(data)
            _flush(file)

    def _check_empty(self) -> None:
        there = os.path.lexists(self._target)
        if there and (not self._target.is_dir() or any(self._target.iterdir())):
            raise InputError(f"the output {self.path} isn't an empty folder; name a new one.")
        if there and os.path.samefile(self._target, os.curdir):
            raise InputError(
                f"the output {self.path} is the current folder, which can't be replaced; name a"
                " folder in it, such as merged."
            )

    def _check_own(self) -> None:
        """Refuse a hidden folder that others can write into, or that holds what no merge left."""
        mark, probe = self.work / _MARK, self.work / _MARK / _PROBE
        try:
            if not os.listdir(self.work):
                mark.mkdir(0o700)
            if mark.is_symlink():
                raise self._not_own(mark)
            with contextlib.suppress(FileNotFoundError):
                probe.rmdir()
            probe.mkdir(0o700)
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError):
            raise self._not_own(self.work) from None
        # What is made now shows what this file system makes of owners and rights.
        now, before = probe.lstat(), self.work.lstat()
        if before.st_uid != now.st_uid or before.st_mode & ~now.st_mode & 0o022:
            raise self._not_own(self.work)
        for folder, folders, files in os.walk(self.work):
            for found in (Path(folder, name) for name in (*folders, *files)):
                state = found.lstat()
                file = stat.S_ISREG(state.st_mode) and state.st_nlink == 1
                if state.st_uid != now.st_uid or not (file or stat.S_ISDIR(state.st_mode)):
                    raise self._not_own(found)

    def _not_own(self, found: Path) -> InputError:
        return InputError(
            f"{found} isn't what an unfinished merge of yours into {self.path} leaves; move"
            f" {self.work} away, or name another output."
        )

    def _try_rename(self) -> None:
        """Put an empty folder in the output's place, as will be done in the end."""
        probe, there = self.work / _MARK / _PROBE, self._target.is_dir()
        try:
            if there:
                shutil.copymode(self._target, probe)
            os.rename(probe, self._target)
            if not there:
                os.rmdir(self._target)
        except OSError as error:
            raise InputError(
                f"the output {self.path} can't be put in its place ({error.strerror}), as where a"
                f" disk or a container's volume is mounted; name a folder in it, such as"
                f" {self.path / 'merged'}."
            ) from None

    def _locked(self) -> int | None:
        """A lock on the hidden folder, which another process may be removing meanwhile.

        Returns:
            Its descriptor; None where the file system has no such locks, and a file is there.
        """
        while True:
            self.work.parent.mkdir(parents=True, exist_ok=True)
            try:
                with contextlib.suppress(FileExistsError):
                    self.work.mkdir(0o700)
                lock = os.open(self.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                raise self._not_own(self.work) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.work.exists() and os.path.samestat(os.fstat(lock), self.work.lstat()):
                    return lock
            except BlockingIOError:
                os.close(lock)
                message = f"another merge is writing {self.path}; name another output."
                raise InputError(message) from None
            except OSError as error:  # Lustre, NFS and FUSE have several words for it
                os.close(lock)
                self._make_lock_file(error)
                return None
            os.close(lock)

    def _make_lock_file(self, reason: OSError) -> None:
        """Claim the hidden folder by a file beside it that only one process can make."""
        mine = f"{os.getpid()} {socket.gethostname()}"
        try:
            with self._lock_file.open("x", encoding="utf-8") as file:
                file.write(mine)
        except FileExistsError:
            owner = self._lock_file.read_text(encoding="utf-8", errors="replace")
            if _is_running(owner):
                raise InputError(
                    f"another merge is writing {self.path}, says {self._lock_file} (process and"
                    f" machine: {owner}); name another output or, if that one isn't running any"
                    " more, delete that file."
                ) from None
            other = self._lock_file.with_suffix(f".lock{os.getpid()}")
            other.write_text(mine, encoding="utf-8")
            os.replace(other, self._lock_file)
            time.sleep(SETTLE_SECONDS)
            if self._lock_file.read_text(encoding="utf-8") != mine:
                raise InputError(f"another merge is writing {self.path}.") from None
        logger.warning(
            "the file system of %s has no locks (%s); %s stands in for one",
            self.work,
            reason.strerror,
            self._lock_file.name,
        )

    def _unlock(self) -> None:
        if self._lock is None:
            self._lock_file.unlink()
        else:
            os.close(self._lock)


def _is_running(owner: str) -> bool:
    """Whether the process that a lock file names may still run; those elsewhere are taken to."""
    pid, _, host = owner.partition(" ")
    if host != socket.gethostname() or not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def disk_free(output: Path) -> int:
    """Bytes free on the disk that an output goes to; its folders need not exist yet."""
    folder = Path(os.path.realpath(output))
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def too_full(output: Path, needed: int) -> str:
    """What to say and do where an output's disk has less free than the bytes that it needs."""
    return (
        f"{output.absolute().parent} has {size_text(disk_free(output))} free, and"
        f" {size_text(needed)} are needed; make room, or name an output on another disk."
    )


class SafetensorsWriter:
    """Writes planned tensors into safetensors files of bounded size.

    The headers are known from the plan, so that a tensor's bytes go to their place as they come, in
    any order of tensors, and no more than a block is in memory. Files that an earlier writer with
    the same plan left are written on.

    Args:
        folder: where the files go.
        entries: all tensors.
        max_shard_size: bytes of tensors in a file; a larger tensor has a file of its own.
        single_file: put everything into one file of this name instead.

    Attributes:
        plan: the tensors in the order of the files: wider dtypes first, which keeps each aligned
            to its width, as readers ask.
        files: the names of the files.
        size: bytes of all files together.
    """

    def __init__(
        self,
        folder: Path,
        entries: Sequence[Entry],
        max_shard_size: int,
        single_file: str | None = None,
    ) -> None:
        self.plan = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
        self._folder = folder
        shards = [self.plan] if single_file else _shards(self.plan, max_shard_size)
        count = len(shards)
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        self.files = names if count > 1 else [single_file or SINGLE_FILE]
        self._entries = {entry.name: entry for entry in self.plan}
        self._shards = dict(zip(self.files, shards, strict=True))
        self._file_of = {e.name: file for file, shard in self._shards.items() for e in shard}
        self._headers = {file: _header(shard) for file, shard in self._shards.items()}
        self._starts: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        for file, shard in self._shards.items():
            offset = len(self._headers[file])
            for entry in shard:
                self._starts[entry.name] = offset
                offset += entry.size
            self._sizes[file] = offset
        self.size = sum(self._sizes.values())
        self._handles: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._checksums: dict[str, int] = {}
        self._dirty = 0

    def open(self) -> None:
        """Make the files, with their headers and in their full size, but without any disk space."""
        for file in self.files:
            handle = self._handle(file)
            _write_at(handle, memoryview(self._headers[file]), 0)
            os.ftruncate(handle, self._sizes[file])

    def append(self, name: str, data: memoryview) -> bool:
        """Write the next bytes of a tensor, and whether it is complete now.

        Args:
            name: its name.
            data: what follows the bytes that this writer wrote of it before; little-endian, of the
                planned dtype.

        Raises:
            ValueError: no such tensor is planned, or it is smaller.
        """
        if name not in self._entries:
            raise ValueError(f"{name} isn't planned")
        size, done = self._entries[name].size, self._written.get(name, 0)
        if done + data.nbytes > size:
            raise ValueError(f"{name} is planned with {size} bytes, not {done + data.nbytes}")
        handle, start = self._handle(self._file_of[name]), self._starts[name] + done
        _write_at(handle, data, start)
        self._checksums[name] = zlib.crc32(data, self._checksums.get(name, 0))
        self._written[name] = done + data.nbytes
        self._dirty += data.nbytes
        if self._dirty > _WRITE_BACK and hasattr(os, "posix_fadvise"):  # macOS has none
            # Lets the disk start now, so that little is left to be flushed at the end.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            self._dirty = 0
        return self._written[name] == size

    def checksum(self, name: str) -> int:
        """CRC-32 of the bytes that were written of a tensor."""
        return self._checksums.get(name, 0)

    def take_over(self, name: str, checksum: int) -> bool:
        """Count a tensor that an earlier writer wrote as written, if its bytes are all there.

        Args:
            name: its name.
            checksum: its CRC-32.
        """
        handle, size = self._handle(self._file_of[name]), self._entries[name].size
        found = 0
        for at in range(0, size, _CHUNK):
            chunk = os.pread(handle, min(_CHUNK, size - at), self._starts[name] + at)
            found = zlib.crc32(chunk, found)
        if found != checksum:
            return False
        self._written[name], self._checksums[name] = size, found
        return True

    def finish(self) -> None:
        """Flush the files, and write the index if there are several.

        Raises:
            ValueError: tensors of the plan are missing.
        """
        for entry in self.plan:
            if self._written.get(entry.name, 0) < entry.size:
                raise ValueError(f"{entry.name} was planned, and never written")
        for file in self.files:
            os.fsync(self._handle(file))
        if len(self.files) == 1:
            return
        index = {
            "metadata": {"total_size": sum(entry.size for entry in self.plan)},
            "weight_map": self._file_of,
        }
        with (self._folder / INDEX_FILE).open("x", encoding="utf-8") as index_file:
            json.dump(index, index_file, indent=2, sort_keys=True)
            index_file.write("\n")
            _flush(index_file)

    def close(self) -> None:
        """Close the files."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _handle(self, file: str) -> int:
        """An open file; the one that was used least lately is closed for it."""
        handle = self._handles.pop(file, None)
        if handle is None:
            if len(self._handles) == _OPEN_FILES:
                os.close(self._handles.pop(next(iter(self._handles))))
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            handle = os.open(self._folder / file, flags, 0o644)
        self._handles[file] = handle
        return handle


def _free_name(donor: Path, name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    names = (f"{stem}.base{'' if n == 1 else n}.{suffix}" for n in itertools.count(1))
    return next(free for free in names if not os.path.lexists(donor / free))


def _header(shard: Sequence[Entry]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in shard:
        header[entry.name] = {
            "dtype": _DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.size],
        }
        offset += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_at(handle: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done:], offset + done)


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


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
