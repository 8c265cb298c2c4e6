"""Runs a merge: opens the checkpoints, lets an engine merge tensor by tensor, writes the reports.

What is read, merged and written at one time is bounded by `max_memory`. A merge that was stopped,
killed even, resumes; see `amm.engines.manifest`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from amm._version import __version__
from amm.checkpoints.base import dtype_name
from amm.checkpoints.donor import (
    CONFIG_FILE,
    OtherFiles,
    donor_folder,
    main_dtype,
    other_files,
    with_dtype,
)
from amm.checkpoints.hf import INDEX_FILE
from amm.checkpoints.union import unite_files
from amm.checkpoints.writer import OutputFolder, SafetensorsWriter, disk_free, too_full
from amm.config import MergeConfig
from amm.diagnostics import NORM_RATIO_WARNING
from amm.engines.hashing import InputHashes
from amm.engines.job import Job
from amm.engines.local import run_local
from amm.engines.manifest import Manifest
from amm.engines.ray import run_ray
from amm.engines.recorder import Progress, Recorder
from amm.errors import InputError, MergeInterrupted, UnfinishedError
from amm.planning import doubts
from amm.report import REPORT_FILES, MergeResult, write_reports
from amm.settings import validated

logger = logging.getLogger("amm")

ROUNDING_WARNING = 0.5
"""Below this share of changed entries that survive rounding, the merge warns."""

MANIFEST_FILE = "manifest"

_HASHED_AT_A_TIME = 4
_ENGINES = {"local": run_local, "ray": run_ray}

_SAME_BYTES = {"output", "parameters", "engine", "max_memory", "hash_inputs"}
"""Keys of a merge that the bytes of the weights don't depend on, or that count by another name."""

_OTHER_FILES_ROOM = 2**24
"""Bytes left for reports and plots when free disk space is checked."""


def merge(
    base: str | Path,
    experts: Sequence[str | Path | Mapping[str, Any]],
    *,
    output: str | Path,
    partial_experts: bool = False,
    parts: str = "base",
    method: str = "amm",
    parameters: Mapping[str, Any] | None = None,
    overrides: Sequence[Mapping[str, Any]] = (),
    save_dtype: str | None = None,
    compute_dtype: str = "float32",
    device: str = "cpu",
    engine: str = "local",
    max_memory: int | str = "3.5GB",
    hash_inputs: bool = True,
    max_shard_size: int | str = "1GB",
    copy_files_from: str | Path | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge experts that were trained from one base, and write the merged model.

    The output folder appears whole or not at all. It has the base's keys, shapes and naming, the
    donor's other files byte for byte, and reports. If a merge is stopped, by whatever, the same
    call resumes it.

    Args:
        base: the model that the experts were trained from; this and all others but the last are the
            keys of `amm.MergeConfig`, which says what they are.
        experts: paths, or mappings with `path`, `weight`, `base` and `partial`.
        output: folder to write.
        progress: called after each tensor with its name and the share of the work that is done;
            first of all, when a merge resumes, with `resuming`. Not always in the caller's thread.

    Raises:
        InputError: anything that the caller can mend; the message says what and how.
        UnfinishedError: a full disk, or a process of a cluster that dies again and again.
        MergeInterrupted: SIGINT, or SIGTERM in the main thread.
    """
    values = {
        "base": base,
        "experts": experts,
        "output": output,
        "partial_experts": partial_experts,
        "parts": parts,
        "method": method,
        "parameters": dict(parameters or {}),
        "overrides": overrides,
        "save_dtype": save_dtype,
        "compute_dtype": compute_dtype,
        "device": device,
        "engine": engine,
        "max_memory": max_memory,
        "hash_inputs": hash_inputs,
        "max_shard_size": max_shard_size,
        "copy_files_from": copy_files_from,
    }
    return run(validated(MergeConfig, values, "merge"), progress)


def run(config: MergeConfig, progress: Progress | None = None) -> MergeResult:
    """Run a validated merge; see `merge`."""
    with _sigterm_interrupts(), OutputFolder(config.output) as folder:
        manifest_file = folder.work / MANIFEST_FILE
        folder.keep = manifest_file.exists()
        job = Job(config)
        donor = donor_folder(job.config.copy_files_from, job.base)
        with closing(Manifest(manifest_file, _identity(job), torch.get_num_threads())) as manifest:
            try:
                return _run(job, donor, folder, manifest, progress)
            except InputError:
                folder.keep = False
                raise
            except OSError as error:
                folder.keep = bool(manifest.tensors)
                raise _unfinished(error, job, folder, manifest) from error
            except KeyboardInterrupt:
                folder.keep = bool(manifest.tensors)
                raise MergeInterrupted(_how_to_resume(job, manifest)) from None
            except BaseException:
                folder.keep = bool(manifest.tensors)
                raise


def _run(
    job: Job,
    donor: Path | None,
    folder: OutputFolder,
    manifest: Manifest,
    progress: Progress | None,
) -> MergeResult:
    result = MergeResult(job.config.output)
    before = _states(job)
    weights = SafetensorsWriter(folder.partial, job.entries, job.config.max_shard_size)
    writers = [weights]
    sides = None
    if (side := job.method.side) is not None and job.sides:
        entries = [entry for tensor in job.sides.values() for entry in tensor]
        sides = SafetensorsWriter(folder.partial, entries, 0, single_file=side.file)
        writers.append(sides)
    files = [file for writer in writers for file in writer.files]
    folder.clear(keep=files)
    own = (*REPORT_FILES, *files, INDEX_FILE)
    named = job.config.copy_files_from is not None
    united = unite_files(donor, job.models.folders, named=named, own=own)
    other = OtherFiles([], []) if donor is None else other_files(donor)
    sources = ({} if donor is None else {donor: other.copied}) | united.owned
    copied = sum((path / name).stat().st_size for path, names in sources.items() for name in names)
    _check_disk(folder, sum(writer.size for writer in writers) + copied)
    if donor is not None:
        replaced = [] if united.config is None else [CONFIG_FILE]
        names = [name for name in other.copied if name not in replaced]
        result.copied_files = folder.copy_files(donor, names, own)
        result.left_out = other.left_out
        for path, names in united.owned.items():
            result.owned_files |= dict.fromkeys(folder.copy_files(path, names, own), str(path))
        if united.config is not None:
            folder.write_bytes(CONFIG_FILE, united.config)
        result.config_dtype = _write_dtype(folder, job)
    result.warnings = doubts(job)
    _log(result.warnings)
    checkpoints = {
        str(path): checkpoint.files() if job.config.hash_inputs else []
        for path, checkpoint in job.inputs
    }
    checkpoints |= {str(path): [path] for path in job.tables}
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(closing(writer))
            writer.open()
        hashes = stack.enter_context(
            InputHashes(checkpoints, manifest, min(_HASHED_AT_A_TIME, manifest.threads))
        )
        recorder = Recorder(job, weights, sides, manifest, progress)
        left = recorder.resume()
        result.resumed = len(recorder.reports)
        if result.resumed:
            logger.warning("resuming: %d of %d tensors are done", result.resumed, len(job.entries))
        _ENGINES[job.config.engine](job, left, recorder, manifest.threads)
        recorder.finish()
        result.tensors = recorder.ordered_reports()
        result.warnings += _warnings(result)
        hashed = hashes.result()
        _check_unchanged(before, job)
        write_reports(folder, job, result, hashed)
    return result


def _identity(job: Job) -> dict[str, Any]:
    """Everything that decides about the bytes of the weights."""
    plan = [(entry.name, entry.shape, str(entry.dtype)) for entry in job.entries]
    return {
        **job.config.model_dump(mode="json", exclude=_SAME_BYTES),
        "parameters": job.settings.model_dump(mode="json"),
        "inputs": _states(job),
        "tensors": hashlib.sha256(repr(plan).encode()).hexdigest(),
        "versions": {"amm": __version__, "torch": torch.__version__},
    }


def _states(job: Job) -> dict[str, str]:
    """What tells that an input file was changed; the last of the times can't be set back."""
    files = [(path, file) for path, checkpoint in job.inputs for file in checkpoint.files()]
    states = {}
    for path, file in [*files, *((table.parent, table) for table in job.tables)]:
        status = os.stat(file)
        states[f"{path}: {file.name}"] = (
            f"{status.st_size} bytes, modified at {status.st_mtime_ns} ns, changed at"
            f" {status.st_ctime_ns} ns"
        )
    return states


def _check_unchanged(before: dict[str, str], job: Job) -> None:
    changed = [name for name, state in _states(job).items() if state != before[name]]
    if changed:
        raise InputError(
            f"{', '.join(changed[:5])} was changed during the merge, which may have read some of"
            " both; merge again once nothing writes to it."
        )


def _write_dtype(folder: OutputFolder, job: Job) -> str | None:
    """Let config.json say the dtype of the weights; that dtype if it said another."""
    file = folder.partial / CONFIG_FILE
    stored = main_dtype((entry.dtype, math.prod(entry.shape)) for entry in job.entries)
    if stored is None or not file.is_file():
        return None
    said = file.read_bytes()
    config = with_dtype(said, stored, wanted=job.config.save_dtype is not None)
    if config == said:
        return None
    file.unlink()
    folder.write_bytes(CONFIG_FILE, config)
    return dtype_name(stored)


def _check_disk(folder: OutputFolder, size: int) -> None:
    """Refuse a disk that is too small before any work."""
    there = sum(file.stat().st_blocks * 512 for file in folder.partial.iterdir())
    needed = max(size - there, 0) + _OTHER_FILES_ROOM
    if disk_free(folder.path) < needed:
        raise UnfinishedError(too_full(folder.path, needed))


def _unfinished(
    error: OSError, job: Job, folder: OutputFolder, manifest: Manifest
) -> UnfinishedError:
    reason = f"{error}."
    if isinstance(error, UnfinishedError):
        reason = str(error)
    elif error.errno == errno.ENOSPC:
        left = [entry.name for entry in job.entries if entry.name not in manifest.tensors]
        needed = sum(map(job.size, left)) + _OTHER_FILES_ROOM
        reason = f"the disk is full: {too_full(folder.path, needed)}"
    return UnfinishedError(f"{reason} {_how_to_resume(job, manifest)}")


def _how_to_resume(job: Job, manifest: Manifest) -> str:
    if not manifest.tensors:
        return "Nothing was merged yet."
    return (
        f"{len(manifest.tensors)} of {len(job.entries)} tensors are done; run the same merge again"
        " to resume."
    )


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like SIGINT, where signals can be handled at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _warnings(result: MergeResult) -> list[str]:
    warnings = [
        f"{tensor.name}: ‖τ‖ is {tensor.layer.norm_ratio:.2f} times ‖Σ τ_i‖"
        f" (ρ = {tensor.layer.rho:.2f}); fewer steps or a smaller scale keep it closer to the base."
        for tensor in result.tensors
        if tensor.layer is not None and tensor.layer.norm_ratio > NORM_RATIO_WARNING
    ]
    kept = result.rounding_kept
    if kept is not None and kept < ROUNDING_WARNING:
        warnings.append(
            f"rounding to the saved dtype kept only {kept:.1%} of the changed entries;"
            " save_dtype: float32 keeps them all."
        )
    _log(warnings)
    return warnings


def _log(warnings: Sequence[str]) -> None:
    for warning in warnings:
        logger.warning("%s", warning)
