"""Ends what a run started, also what Ray and vLLM detach from it."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import psutil

PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def leave_nothing(patience: float = 5.0) -> Iterator[None]:
    """Every process that was started within, also those that were detached, has ended at the end.

    SIGTERM raises KeyboardInterrupt within, as Ctrl-C does. From the first such signal on, and
    while processes are ended, more of them are ignored: a shell, a batch system and an impatient
    user send several, and another one would leave the rest running.

    Args:
        patience: seconds before a process that doesn't end is killed.
    """
    # Processes that lose their parent become children of this one instead of init's, so that they
    # can be found. vLLM's workers survive a failed run, and `ray stop`, otherwise.
    prctl, adopted = ctypes.CDLL(None).prctl, ctypes.c_int()
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(adopted), 0, 0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
        prctl(PR_SET_CHILD_SUBREAPER, adopted.value, 0, 0, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_processes(processes: set[psutil.Process], patience: float = 5.0) -> None:
    """Ask the processes to end, and kill those that have not after `patience` seconds."""
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
