"""The record of a merge in progress: what is done, so that a later run can resume.

One line of JSON per fact, each behind its CRC-32, appended to a file in the hidden folder. The
first line says which merge this is; each further one says that a tensor is complete, with the
checksums of its bytes, or what an input file's hash is. A line that was cut, and everything behind
it, doesn't count. Nothing is flushed to the disk on the way: after a power loss the checksums tell
which tensors arrived.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amm.errors import InputError
from amm.text import listed

_SHOWN = 3


class Manifest:
    """The open record.

    Args:
        path: its file; made if it isn't there.
        identity: everything that decides about the output's bytes. Plain JSON.
        threads: torch's threads; products of matrices depend on their number in the last bit.

    Attributes:
        threads: the number of the run that began the merge, which the others keep.
        tensors: name → what was recorded with it.
        hashes: input file → SHA-256.

    Raises:
        InputError: tensors are recorded of a merge with another identity.
    """

    def __init__(self, path: Path, identity: dict[str, Any], threads: int) -> None:
        self.threads = threads
        self.tensors: dict[str, dict[str, Any]] = {}
        self.hashes: dict[str, str] = {}
        self._lock = threading.Lock()
        identity = json.loads(json.dumps(identity))
        lines, size = _whole_lines(path)
        if lines and lines[0]["identity"] != identity:
            if any("tensor" in line for line in lines):
                raise InputError(_refusal(path.parent, lines[0]["identity"], identity))
            lines, size = [], 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        os.ftruncate(self._file, size)
        if not lines:
            self._append({"identity": identity, "threads": threads})
        for line in lines:
            self.threads = line.get("threads", self.threads)
            if "tensor" in line:
                self.tensors[line["tensor"]] = line["record"]
            if "file" in line:
                self.hashes[line["file"]] = line["sha256"]

    def add_tensor(self, name: str, record: dict[str, Any]) -> None:
        """Record a complete tensor; its bytes have been handed to the operating system."""
        self.tensors[name] = record
        self._append({"tensor": name, "record": record})

    def add_hash(self, file: str, sha256: str) -> None:
        """Record the hash of an input file."""
        self.hashes[file] = sha256
        self._append({"file": file, "sha256": sha256})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, separators=(",", ":")).encode()
        text = b"%08x %s\n" % (zlib.crc32(text), text)
        with self._lock:
            written = os.write(self._file, text)
            if written < len(text):  # a full disk: the next write says so
                os.write(self._file, text[written:])


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines up to the first that is damaged, and their size in bytes."""
    lines: list[dict[str, Any]] = []
    size = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        checksum, _, text = line.removesuffix(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            break
        lines.append(json.loads(text))
        size += len(line)
    return lines, size


def _refusal(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    old, new = dict(_flat(before)), dict(_flat(now))
    changed = [key for key in [*old, *(key for key in new if key not in old)]]
    changed = [key for key in changed if old.get(key) != new.get(key)]
    said = [f"{key}: {old.get(key, 'none')}, now {new.get(key, 'none')}" for key in changed]
    return (
        f"{folder} holds an unfinished merge that isn't this one ({listed(said, _SHOWN, '; ')})."
        " Run it again as it was to finish it, remove that folder to start anew, or name another"
        " output."
    )


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, part in value.items():
        yield from _flat(part, f"{key}.{name}" if key else name)
