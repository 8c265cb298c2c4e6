"""What holds for a run's folder: it has one set of settings, and one launch at a time works in it.

    python -m examples.run_folder FOLDER DESCRIPTOR PROCESS

claims the folder for a shell script: DESCRIPTOR is its ``lock`` file, which PROCESS has opened.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from examples.whole import write_json

RECORD = "settings.json"
LOCK = "lock"


class SettingsDiffer(ValueError):
    """The output folder holds a run with other settings."""


class FolderInUse(RuntimeError):
    """Another launch works in the output folder."""


def keep_settings(
    folder: Path, settings: Mapping[str, Any], may_grow: Collection[str] = ()
) -> None:
    """Writes the settings into ``settings.json``.

    settings: names and what JSON can hold
    may_grow: names whose number may be larger than before

    Raises SettingsDiffer where that file has others.
    """
    path = folder / RECORD
    now = json.loads(json.dumps(settings))
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
    differing = [
        f"{json.dumps(name)}: {_shown(kept, name)}, now {_shown(now, name)}"
        for name in {**kept, **now}
        if _shown(kept, name) != _shown(now, name)
        and not (name in may_grow and now.get(name, 0) > kept.get(name, 0))
    ]
    if differing:
        raise SettingsDiffer(
            f"{folder} holds a run with other settings ({'; '.join(differing)}). "
            "Remove that folder, or choose another one with --output."
        )
    write_json(path, now)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not set"


@contextmanager
def sole_launch(folder: Path) -> Iterator[None]:
    """Nobody else who asks for this gets it while it lasts; a process that dies leaves it.

    Raises FolderInUse.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        claim(folder, descriptor, os.getpid())
        yield
    finally:
        os.close(descriptor)


def claim(folder: Path, descriptor: int, process: int) -> None:
    """Locks the open file for all that hold its descriptor, and notes in it who they are.

    Raises FolderInUse.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode().strip() or "another launch"
        raise FolderInUse(
            f"{folder} is in use: {holder}, or what it started. Wait until that has ended, end it, "
            "or choose another folder with --output."
        ) from None
    except OSError as error:
        print(
            f"{folder}: {error.strerror}; this file system has no locks, so nothing keeps a second "
            "launch of the same run away.",
            file=sys.stderr,
        )
    os.ftruncate(descriptor, 0)
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    os.pwrite(descriptor, f"process {process} on {socket.gethostname()}, since {now}\n".encode(), 0)


if __name__ == "__main__":
    try:
        claim(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except FolderInUse as error:
        print(error, file=sys.stderr)
        sys.exit(2)
