"""Runs a command, and leaves nothing of it behind.

    python -m examples.tiny_r1v.launch.supervise LOG COMMAND ...

Output goes to the terminal and to the end of LOG. On Ctrl-C, SIGTERM, failure and success alike,
every process that the command started on this machine has ended when this ends: Ray and vLLM detach
some, which otherwise outlive a failed run and keep hold of GPU memory. The command's exit code
is this one's; 130 after an interruption.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import psutil

from lipo_verl.cpu.launch import PR_SET_CHILD_SUBREAPER, end_processes


def supervise(log: Path, command: list[str]) -> int:
    """Runs the command and returns its exit code; see the module."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _interrupt)
    with log.open("ab") as file:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the run in order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        copier = threading.Thread(target=_copy, args=(process.stdout, file), daemon=True)
        copier.start()
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 130
        finally:
            # Patience for verl on the CPU platform, which first ends its own processes.
            end_processes(set(psutil.Process().children(recursive=True)), patience=15)
            copier.join()


def _copy(source: IO[bytes], file: IO[bytes]) -> None:
    while chunk := source.read1():
        for target in (sys.stdout.buffer, file):
            target.write(chunk)
            target.flush()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1]), sys.argv[2:]))
