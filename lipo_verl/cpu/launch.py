"""Runs verl's trainer as a child that leaves nothing behind."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, NoReturn

import psutil

PR_SET_CHILD_SUBREAPER = 36

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)

ARGUMENTS = ("hydra.searchpath=[pkg://lipo_verl.cpu.config]", "+platform=cpu")


def run_main_ppo(
    overrides: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> int:
    """Runs ``verl.trainer.main_ppo`` on the CPU platform and returns its exit code.

    overrides:   Hydra overrides, as verl takes them; they win over the CPU configuration. Hydra's
                 own options may stand among them, each in one word (``--config-dir=DIR``)
    environment: set in the run's processes beside this one's environment
    output:      where standard output and error go; None: this process's own

    Every process that the run started, also those that Ray and vLLM detach, has ended when this
    returns or raises; SIGTERM is treated as Ctrl-C.
    """
    options = [argument for argument in overrides if argument.startswith("-")]
    overrides = [argument for argument in overrides if not argument.startswith("-")]
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *options, *ARGUMENTS, *overrides]
    environment = {**os.environ, **(environment or {}), "VERL_PLATFORM": "cpu"}
    with leave_nothing():
        # A session of its own: Ctrl-C reaches this process alone, which then ends the run in order.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )
        return process.wait()


@contextmanager
def leave_nothing(patience: float = 5.0) -> Iterator[None]:
    """Every process that was started within, also those that were detached, has ended at the end.

    SIGTERM raises KeyboardInterrupt within, as Ctrl-C does. From the first such signal on, and
    while processes are ended, more of them are ignored: a shell, a batch system and an impatient
    user send several, and another one would leave the rest running.

    patience: seconds before a process that doesn't end is killed
    """
    # Processes that lose their parent become children of this one instead of init's, so that they
    # can be found. vLLM's workers survive a failed run, and `ray stop`, otherwise.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = set(psutil.Process().children(recursive=True))
    main_thread = threading.current_thread() is threading.main_thread()
    # A command in the background of a script is deaf to SIGINT, and stays it.
    handlers = {
        number: handler
        for number in INTERRUPTIONS
        if main_thread and (handler := signal.getsignal(number)) != signal.SIG_IGN
    }
    for number in handlers:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        end_processes(set(psutil.Process().children(recursive=True)) - before, patience)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_processes(processes: set[psutil.Process], patience: float = 5.0) -> None:
    """Asks the processes to end, and kills those that have not after ``patience`` seconds."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=patience)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    for each in INTERRUPTIONS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
