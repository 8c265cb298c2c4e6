"""Runs a command, and leaves nothing of it behind.

    python -m examples.tiny_r1v.launch.supervise LOG COMMAND ...

Output goes to the terminal and to the end of LOG. On Ctrl-C, SIGTERM, failure and success alike,
every process that the command started on this machine has ended when this ends: Ray and vLLM detach
some, which otherwise outlive a failed run and keep hold of GPU memory. The command's exit code
is this one's; 130 after an interruption.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from lipo_verl.processes import leave_nothing


def supervise(log: Path, command: list[str]) -> int:
    """Runs the command and returns its exit code; see the module."""
    try:
        # Patience for verl on the CPU platform, which first ends its own processes.
        with log.open("ab") as file, ExitStack() as ended, leave_nothing(patience=15):
            # A session of its own: Ctrl-C reaches this process alone, which ends the run in order.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                close_fds=False,  # the claim on the run's folder is the command's as well
            )
            copier = threading.Thread(target=_copy, args=(process.stdout, file), daemon=True)
            copier.start()
            ended.callback(copier.join)
            return process.wait()
    except KeyboardInterrupt:
        return 130


def _copy(source: IO[bytes], file: IO[bytes]) -> None:
    while chunk := source.read1():
        for target in (sys.stdout.buffer, file):
            target.write(chunk)
            target.flush()


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1]), sys.argv[2:]))
