"""Merges on this machine, with reading, merging and writing at the same time.

A pool of threads, one for each core, reads blocks and merges those of elementwise methods, each
with one thread of torch. Tensors that are merged as a whole are read by the pool and merged by the
caller's thread with all of torch's threads. One more thread writes, in the order of the tensors.
The blocks between reading and disk are bounded by the ceiling of memory.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from amm.engines.job import Block, Inputs, Job, Merged
from amm.engines.pages import release_freed
from amm.engines.recorder import Recorder


def run_local(job: Job, names: Sequence[str], recorder: Recorder, threads: int) -> None:
    """Merge tensors and record them, in the given order.

    Args:
        job: the merge.
        names: the tensors.
        recorder: gets the results, in a thread of its own.
        threads: of the pool, and of torch for tensors that are merged as a whole.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    window = _Window(job.working_memory)
    pool = ThreadPoolExecutor(threads, "amm-merge", lambda: torch.set_num_threads(1))
    writer = _WriterThread(recorder, window)
    try:
        _feed(job, names, pool, window, writer)
        writer.finish()
    finally:
        pool.shutdown(cancel_futures=True)
        writer.stop()
        torch.set_num_threads(before)


def _feed(
    job: Job,
    names: Sequence[str],
    pool: ThreadPoolExecutor,
    window: _Window,
    writer: _WriterThread,
) -> None:
    tasks = _tasks(job, names, pool)
    task = next(tasks, None)
    started: deque[tuple[_Task, Future[Inputs | Merged]]] = deque()
    while task is not None or started:
        while task is not None and window.take(task.need, wait=not started):
            started.append((task, pool.submit(_prepare, job, task)))
            task = next(tasks, None)
        head, future = started.popleft()
        result = future.result()
        del future  # it holds the inputs as well
        if isinstance(result, Inputs):
            result = job.merge(head.block, result)
            release_freed()
        writer.put(head, result)


@dataclass(frozen=True)
class _Task:
    block: Block
    need: int
    statistics: Future[object]


def _tasks(job: Job, names: Sequence[str], pool: ThreadPoolExecutor) -> Iterator[_Task]:
    """The blocks of all tensors; each tensor's statistics start one tensor ahead.

    Those of the largest, an embedding mostly, take one thread for long: they start first, and its
    blocks come last.
    """
    order = sorted(names, key=lambda name: math.prod(job.entry(name).shape))[-1:]
    statistics = {name: pool.submit(job.statistics, name) for name in order}
    order[:0] = (name for name in names if name not in statistics)
    for at, name in enumerate(order):
        for following in order[at : at + 2]:
            if following not in statistics:
                statistics[following] = pool.submit(job.statistics, following)
        for block in job.blocks(name):
            yield _Task(block, job.need(block), statistics[name])


def _prepare(job: Job, task: _Task) -> Inputs | Merged:
    if task.block.rule.whole:
        return job.read(task.block)
    return job.merge_entries(task.block, task.statistics.result())


class _Window:
    """Bytes of the blocks that are between reading and disk."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def take(self, size: int, wait: bool) -> bool:
        """Take so many bytes; False if they aren't free and `wait` is off."""
        with self._changed:
            while self._free < size and wait and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if self._free < size:
                return False
            self._free -= size
            return True

    def give_back(self, size: int) -> None:
        with self._changed:
            self._free += size
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let whoever takes from now on end with the error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()


class _WriterThread:
    def __init__(self, recorder: Recorder, window: _Window) -> None:
        self._recorder = recorder
        self._window = window
        self._queue: queue.SimpleQueue[tuple[_Task, Merged] | None] = queue.SimpleQueue()
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="amm-write")
        self._thread.start()

    def put(self, task: _Task, merged: Merged) -> None:
        self._queue.put((task, merged))

    def finish(self) -> None:
        """Wait until all is written; raises what went wrong there."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Write nothing more than what is being written."""
        self._stopped = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None and not self._stopped:
                task, merged = item
                self._recorder.add(task.block.name, merged)
                self._window.give_back(task.need)
        except BaseException as error:
            self._error = error
            self._window.fail(error)
