"""SHA-256 of the input files, in the background of a merge."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from amm.engines.manifest import Manifest

_CHUNK = 2**22


class InputHashes:
    """A thread that hashes files one after the other; use it as a context, which stops it.

    Args:
        files: for each input, its weight files.
        manifest: has the hashes that an earlier run found, and gets the others.
    """

    def __init__(self, files: Mapping[str, Sequence[Path]], manifest: Manifest) -> None:
        self._files = files
        self._manifest = manifest
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="amm-hashes", daemon=True)

    def __enter__(self) -> InputHashes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> dict[str, dict[str, str]]:
        """Input → name of the file → SHA-256 in hexadecimal digits; waits for the last one.

        Raises:
            OSError: a file can't be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return {
            path: {file.name: self._manifest.hashes[os.path.realpath(file)] for file in files}
            for path, files in self._files.items()
        }

    def _run(self) -> None:
        try:
            for files in self._files.values():
                for file in files:
                    name = os.path.realpath(file)
                    if name not in self._manifest.hashes:
                        self._hash(name)
        except OSError as error:
            self._error = error

    def _hash(self, name: str) -> None:
        digest = hashlib.sha256()
        with open(name, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                if self._stop.is_set():
                    return
                digest.update(chunk)
        self._manifest.add_hash(name, digest.hexdigest())
