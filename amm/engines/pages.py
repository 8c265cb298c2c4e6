"""Gives memory back that counts as the process's, but isn't in use.

Checkpoints are read through memory maps, whose pages stay in the resident set until the machine
runs short. A merge that reads 50 GB would count as 50 GB, and containers are killed for less. And
glibc's heap keeps what is freed in pieces below 32 MB: hundreds of layers tear it to pieces.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable
from pathlib import Path

_MADV_DONTNEED = 4
_MAPS = Path("/proc/self/maps")
_LIBC = ctypes.CDLL(None, use_errno=True)


def release_freed() -> None:
    """Return the heap's freed pages to the system; only glibc has a call for it."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


class MappedPages:
    """Counts the bytes that were read, and drops the pages whenever there are too many.

    Only maps of the given files are touched. They are private and nobody writes to them, so that
    a page that is still needed comes back from the file: any thread may drop at any time.

    Args:
        files: weight files.
        limit: bytes that may be resident.
    """

    def __init__(self, files: Iterable[Path], limit: int) -> None:
        self._files = {os.path.realpath(file) for file in files}
        self._limit = limit
        self._read = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        """Note that so many more bytes were read, or are about to be."""
        with self._lock:
            self._read += size
            full = self._read > self._limit
            if full:
                self._read = size
        if full:
            self.drop()

    def drop(self) -> None:
        """Drop the pages of all maps of the files; macOS, which lists no maps, is left to do it."""
        if not _MAPS.exists():
            return
        for line in _MAPS.read_text(encoding="utf-8").splitlines():
            place, _, _, _, _, *name = line.split(maxsplit=5)
            if name and name[0] in self._files:
                first, last = (int(address, 16) for address in place.split("-"))
                _LIBC.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED)
