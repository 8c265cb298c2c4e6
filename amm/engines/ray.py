"""Spreads the tensors of a merge over a Ray cluster.

Tasks read the inputs themselves, under the same paths as here, on whichever machine they run; what
they merged comes back and is written here, through the same recorder as in a local merge. A task
whose process dies is run again by Ray. Each has as many threads as a local merge would, so that the
bytes are the same on processors of one kind.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from amm.config import BASE, MergeConfig
from amm.engines.job import Job, Merged
from amm.engines.pages import release_freed
from amm.engines.recorder import Recorder
from amm.errors import UnfinishedError
from amm.methods import get_method

logger = logging.getLogger("amm")

BATCH_BYTES = 2**26
"""Tensors are put into one task up to so many bytes of output."""

RETRIES = 3


def run_ray(job: Job, names: Sequence[str], recorder: Recorder, threads: int) -> None:
    """Merge tensors on a cluster and record them.

    Args:
        job: the merge.
        names: the tensors.
        recorder: gets the results.
        threads: torch's, of each task.

    Raises:
        UnfinishedError: RAY_ADDRESS names no cluster, or a task's process died, and did so again
            each time it was retried.
    """
    import ray

    with _cluster(ray):
        resources = {"num_cpus": threads, "num_gpus": int(job.config.device != "cpu")}
        slots = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        task = ray.remote(_merge).options(max_retries=RETRIES, **resources)
        config = _absolute(job.config).model_dump_json()
        waiting = _batches(job, names)
        running: dict[Any, list[str]] = {}
        size = 0
        batch = next(waiting, None)
        while batch is not None or running:
            while batch is not None and (
                not running or (len(running) < 2 * slots and size + batch[1] < job.working_memory)
            ):
                running[task.remote(config, batch[0], threads)] = batch[0]
                size += batch[1]
                batch = next(waiting, None)
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            finished = running.pop(done)
            for name, merged in zip(finished, _result(ray, done, finished), strict=True):
                size -= job.size(name)
                for block in merged:
                    recorder.add(name, block)


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """A connection to the cluster: the caller's own, the one that runs, or a new one here."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with tempfile.TemporaryDirectory() as empty:
        # Without a folder of its own a worker imports from the one that we were started in.
        settings = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "runtime_env": {"working_dir": empty},
        }
        try:
            ray.init(address=address or "auto", **settings)
        except ConnectionError as error:
            if address:
                raise UnfinishedError(
                    f"RAY_ADDRESS is {address}, where no Ray cluster answers ({error}); correct it,"
                    " or unset it to start one here."
                ) from None
            logger.warning("no Ray cluster is running: one is started on this machine")
            ray.init(address="local", include_dashboard=False, **settings)
        try:
            yield
        finally:
            ray.shutdown()


def _batches(job: Job, names: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """Tensors for one task each, and the bytes of their output."""
    batch: list[str] = []
    size = 0
    for name in names:
        own = job.size(name)
        if batch and (job.rule(name).whole or size + own > BATCH_BYTES):
            yield batch, size
            batch, size = [], 0
        batch.append(name)
        size += own
    if batch:
        yield batch, size


def _result(ray: Any, done: Any, names: Sequence[str]) -> list[list[Merged]]:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except ray.exceptions.RayError as error:
        raise UnfinishedError(
            f"Ray gave up on {names[0]} after {RETRIES} retries: {str(error).splitlines()[0]}."
        ) from None


def _absolute(config: MergeConfig) -> MergeConfig:
    def place(source: Path | str | None) -> Path | str | None:
        return source.absolute() if isinstance(source, Path) else source

    experts = tuple(
        expert.model_copy(update={"path": place(expert.path), "base": place(expert.base)})
        for expert in config.experts
    )

    def parameters(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
        table = None if method == BASE else get_method(method).table
        return {k: str(Path(v).absolute()) if k == table else v for k, v in given.items()}

    overrides = tuple(
        each.model_copy(
            update={"parameters": parameters(each.method or config.method, each.parameters)}
        )
        for each in config.overrides
    )
    return config.model_copy(
        update={
            "base": place(config.base),
            "copy_files_from": place(config.copy_files_from),
            "experts": experts,
            "parameters": parameters(config.method, config.parameters),
            "overrides": overrides,
        }
    )


def _merge(config: str, names: list[str], threads: int) -> list[list[Merged]]:
    """Runs in a process of the cluster: the blocks of some tensors."""
    job = _job(config)
    results = []
    for name in names:
        whole = job.rule(name).whole
        torch.set_num_threads(threads if whole else 1)
        statistics = job.statistics(name)
        blocks = job.blocks(name)
        if whole:
            results.append([job.merge(block, job.read(block)) for block in blocks])
            release_freed()
        else:
            results.append([job.merge_entries(block, statistics) for block in blocks])
    return results


@functools.lru_cache(maxsize=1)
def _job(config: str) -> Job:
    return Job(MergeConfig.model_validate(json.loads(config)))
