"""A pool of processes in which a call that hangs is killed, whatever it hangs in.

Processes are started with a fresh interpreter, never forked: that is safe in threads, in Ray actors
and beside CUDA. They are started when they are first needed and then kept, since importing sympy
costs about a second. A process that is killed is replaced at once.
"""

import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from typing import IO, Any

from lipo_verl.rewards.errors import (
    RewardSetupError,
    WorkerCrashed,
    WorkerRaised,
    WorkerTimeout,
)

START_TIMEOUT = 120.0
"""Seconds that a worker may take to import its function."""

_START = (
    "import sys; sys.path = [place for place in sys.path if place]\n"
    "from lipo_verl.rewards.worker import main; main()"
)
"""A worker imports from where this process does, not also from the current folder."""


class WorkerPool:
    """Calls one function in up to `size` processes; any number of threads may call at once.

    Args:
        function: `module:name`; its arguments and results must be JSON.
        timeout: seconds for one call, neither waiting for a free process nor starting it included.
    """

    def __init__(self, function: str, *, size: int, timeout: float) -> None:
        self.function, self.timeout = function, timeout
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # LIFO: few stay busy
        for _ in range(size):
            self._idle.put(None)

    def run(self, *arguments: Any) -> Any:
        """The function's result for `arguments`.

        Raises:
            WorkerTimeout: it took too long.
            WorkerCrashed: the process ended.
            WorkerRaised: the function raised an exception, which is the message.
            RewardSetupError: the function cannot be imported.
        """
        worker = self._idle.get()
        try:
            if worker is None or not worker.alive():
                worker = _Worker(self.function, self.timeout)
            try:
                return worker.call(arguments, self.timeout)
            except (WorkerTimeout, WorkerCrashed):
                worker.kill()
                worker = _Worker(self.function, self.timeout)
                raise
            except RewardSetupError:
                worker = None
                raise
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes that are idle."""
        for _ in range(self._idle.qsize()):
            worker = self._idle.get()
            if worker is not None:
                worker.kill()
            self._idle.put(None)


_pools: dict[tuple[int, str, int, float], WorkerPool] = {}
_pools_lock = threading.Lock()


def shared_pool(function: str, *, size: int, timeout: float) -> WorkerPool:
    """This process's pool for `function` with these settings; made at the first call."""
    key = os.getpid(), function, size, timeout  # a forked child must not use its parent's pipes
    with _pools_lock:
        if key not in _pools:
            _pools[key] = WorkerPool(function, size=size, timeout=timeout)
        return _pools[key]


class _Worker:
    """One process, used by one thread at a time."""

    def __init__(self, function: str, timeout: float) -> None:
        self._process = process = subprocess.Popen(
            [sys.executable, "-c", _START, function, str(timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        )
        assert process.stdin is not None and process.stdout is not None  # they are pipes
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._function = function
        self._ready = False
        self._received = b""

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def call(self, arguments: tuple[Any, ...], timeout: float) -> Any:
        if not self._ready:
            self._start()
        deadline = time.monotonic() + timeout
        try:
            self._send(json.dumps(arguments).encode() + b"\n", deadline)
            message = self._receive(deadline)
        except BrokenPipeError:
            raise self._crashed() from None
        except TimeoutError:
            raise WorkerTimeout(f"no result after {timeout:g} s; the worker was killed") from None
        if "error" in message:
            raise WorkerRaised(message["error"])
        return message["value"]

    def _start(self) -> None:
        try:
            message = self._receive(time.monotonic() + START_TIMEOUT)
        except (TimeoutError, WorkerCrashed) as error:
            self.kill()
            reason = str(error) or f"not ready after {START_TIMEOUT:g} s"
            raise RewardSetupError(
                f"A worker process for {self._function} could not start: {reason}"
            ) from None
        if "error" in message:
            self.kill()
            raise RewardSetupError(
                f"A worker process cannot import {self._function}: {message['error']}. "
                "Is everything installed? pip install '.[rewards]' in a clone of lipo_verl."
            )
        self._ready = True

    def _send(self, line: bytes, deadline: float) -> None:
        while line:  # a long one doesn't fit into the pipe at once, and a stopped worker reads none
            self._wait(self._stdin, selectors.EVENT_WRITE, deadline)
            line = line[os.write(self._stdin.fileno(), line) :]

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._wait(self._stdout, selectors.EVENT_READ, deadline)
            received = os.read(self._stdout.fileno(), 1 << 16)
            if not received:
                raise self._crashed()
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    @staticmethod
    def _wait(pipe: IO[bytes], event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise TimeoutError

    def _crashed(self) -> WorkerCrashed:
        return WorkerCrashed(f"the worker process ended with code {self._process.wait()}")
