"""SHA-256 of the input files, and their own checksums, in the background of a merge."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from amm.checkpoints.archive import check_checksums
from amm.engines.manifest import Manifest

_CHUNK = 2**22


class InputHashes:
    """Threads that hash files; use it as a context, which stops them.

    Args:
        files: for each input, its weight files.
        manifest: has the hashes that an earlier run found, and gets the others.
        threads: files that are hashed at a time.
    """

    def __init__(
        self, files: Mapping[str, Sequence[Path]], manifest: Manifest, threads: int
    ) -> None:
        self._files = files
        self._manifest = manifest
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads, "amm-hashes")
        self._hashed: list[Future[None]] = []

    def __enter__(self) -> InputHashes:
        names = {os.path.realpath(file): None for files in self._files.values() for file in files}
        left = [name for name in names if name not in self._manifest.hashes]
        self._hashed = [self._pool.submit(self._hash, name) for name in left]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def result(self) -> dict[str, dict[str, str]]:
        """Input → name of the file → SHA-256 in hexadecimal digits; waits for the last one.

        Raises:
            OSError: a file can't be read.
            InputError: a file has other bytes than it had when it was written.
        """
        for future in self._hashed:
            future.result()
        return {
            path: {file.name: self._manifest.hashes[os.path.realpath(file)] for file in files}
            for path, files in self._files.items()
        }

    def _hash(self, name: str) -> None:
        digest = hashlib.sha256()
        with open(name, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                if self._stop.is_set():
                    return
                digest.update(chunk)
        check_checksums(Path(name))
        self._manifest.add_hash(name, digest.hexdigest())
