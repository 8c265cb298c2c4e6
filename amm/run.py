"""Runs a merge: reads one tensor of every model at a time, merges, rounds once, writes.

At any time one tensor's differences are in memory; tensors that are merged entry by entry are read
in blocks of rows, so that an embedding costs no more than a layer.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm._version import __version__
from amm.checkpoints import Checkpoint, open_checkpoint
from amm.checkpoints.keys import MERGEABLE, align, row_blocks
from amm.checkpoints.writer import REPORT_FILE, Entry, OutputFolder, SafetensorsWriter
from amm.config import MergeConfig
from amm.diagnostics import NORM_RATIO_WARNING, LayerFigures, layer_figures
from amm.errors import InputError
from amm.layers import is_linear
from amm.methods import Method, get_method
from amm.settings import Settings, validated

logger = logging.getLogger("amm")

Progress = Callable[[str, float], None]

ROUNDING_WARNING = 0.5
"""Below this share of changed entries that survive rounding, the merge warns."""


@dataclass
class TensorReport:
    """What became of one tensor.

    Attributes:
        name: its key in the output.
        rule: the method that merged it, `base` (left as it is by `other_tensors`), or `unchanged`
            (no expert moved it).
        changed: entries that the merge moved, before rounding.
        kept: entries that differ from the base after rounding to the saved dtype.
        layer: figures of a 2-D weight of a linear layer, where some expert moved it.
    """

    name: str
    rule: str
    changed: int = 0
    kept: int = 0
    layer: LayerFigures | None = None


@dataclass
class MergeResult:
    """What a merge did.

    Attributes:
        output: the folder that was written.
        tensors: one report for each tensor, in the order of the output.
        warnings: sentences, as logged.
        copied_files: files taken over from the donor.
    """

    output: Path
    tensors: list[TensorReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    copied_files: list[str] = field(default_factory=list)

    @property
    def rounding_kept(self) -> float | None:
        """Share of the changed entries that differ from the base after rounding."""
        changed = sum(tensor.changed for tensor in self.tensors)
        return sum(tensor.kept for tensor in self.tensors) / changed if changed else None


def merge(
    base: str | Path,
    experts: Sequence[str | Path],
    *,
    output: str | Path,
    method: str = "amm",
    parameters: Mapping[str, Any] | None = None,
    save_dtype: str | None = None,
    compute_dtype: str = "float32",
    device: str = "cpu",
    max_shard_size: int | str = "1GB",
    copy_files_from: str | Path | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge experts that were trained from one base, and write the merged model.

    The output folder appears whole or not at all. It has the base's keys, shapes and naming, the
    donor's other files byte for byte, and `merge_report.json`.

    Args:
        base: see `amm.config.MergeConfig`, as for all but the last.
        experts: folders of the experts.
        output: folder to write.
        method: merge method.
        parameters: settings of the method.
        save_dtype: dtype of the merged weights, by default the base's.
        compute_dtype: float32 or float64.
        device: where the method runs.
        max_shard_size: bytes in one output file.
        copy_files_from: donor of the other files, by default the base.
        progress: called after each tensor with its name and the share of the work that is done.

    Raises:
        InputError: anything that the caller can mend; the message says what and how.
    """
    values = {
        "base": base,
        "experts": experts,
        "output": output,
        "method": method,
        "parameters": dict(parameters or {}),
        "save_dtype": save_dtype,
        "compute_dtype": compute_dtype,
        "device": device,
        "max_shard_size": max_shard_size,
        "copy_files_from": copy_files_from,
    }
    return run(validated(MergeConfig, values, "merge"), progress)


def run(config: MergeConfig, progress: Progress | None = None) -> MergeResult:
    """Run a validated merge; see `merge`."""
    job = _Job(config)
    result = MergeResult(config.output)
    with OutputFolder(config.output) as folder:
        if job.donor is not None:
            result.copied_files = folder.copy_files(job.donor)
        writer = SafetensorsWriter(folder.partial, job.entries, config.max_shard_size)
        total, done = sum(map(job.cost, writer.plan)), 0.0
        for entry in writer.plan:
            report = TensorReport(entry.name, job.rule(entry.name).name)
            writer.write(entry.name, job.merged_blocks(entry, report))
            result.tensors.append(report)
            done += job.cost(entry)
            if progress is not None:
                progress(entry.name, done / total)
        writer.finish()
        result.warnings = _warnings(result)
        folder.write_json(REPORT_FILE, _report(job, result))
    return result


@dataclass(frozen=True)
class _Rule:
    """What is done with a tensor: a method with its settings, or, without one, the base's."""

    name: str
    method: Method | None = None
    settings: Settings | None = None


class _Job:
    """The opened checkpoints of a merge, and what is done with each tensor."""

    def __init__(self, config: MergeConfig) -> None:
        self.config = config
        self.method = get_method(config.method)
        self.settings = config.method_settings()
        self.base = open_checkpoint(config.base)
        self.experts = [open_checkpoint(path) for path in config.experts]
        self.names = align(self.base, self.experts)
        self.dtype = getattr(torch, config.compute_dtype)
        donor = config.copy_files_from
        if donor is not None and not donor.is_dir():
            raise InputError(f"copy_files_from: {donor} isn't a folder; give one, or leave it out.")
        self.donor = donor or self.base.files_folder
        self.entries = [
            Entry(key, self.base.shape(key), self._saved_dtype(key)) for key in self.base.keys()
        ]

    def rule(self, name: str) -> _Rule:
        if self.base.dtype(name) not in MERGEABLE:
            return _Rule("unchanged")
        if self.method.tensors == "all" or is_linear(name, self.base.shape(name)):
            return _Rule(self.method.name, self.method, self.settings)
        if self.settings.other_tensors == "base":
            return _Rule("base")
        other = get_method(self.settings.other_tensors)
        return _Rule(other.name, other, other.settings())

    def cost(self, entry: Entry) -> float:
        """About the work on a tensor, in operations; only the proportions matter."""
        entries = torch.Size(entry.shape).numel()
        method = self.rule(entry.name).method
        if method is None or method.elementwise:
            return 1e2 * entries
        rows, columns = entry.shape
        return 1e3 * entries * min(columns, 2 * len(self.experts) * rows)

    def merged_blocks(self, entry: Entry, report: TensorReport) -> Iterator[Tensor]:
        """The merged tensor in blocks of rows and in the saved dtype; fills in the report."""
        rule = self.rule(entry.name)
        whole = rule.method is not None and not rule.method.elementwise
        moved = False
        for rows in [None] if whole else row_blocks(entry.shape):
            base = self._read(self.base, entry.name, rows)
            unmerged = self._rounded(entry, base)
            if entry.dtype not in MERGEABLE:
                self._check_same(entry.name, base, rows)
                yield unmerged
                continue
            vectors = self._task_vectors(entry.name, base, rows)
            if rule.method is None or not vectors.any():
                yield unmerged
                continue
            moved = True
            tau = rule.method.function(vectors, rule.settings)
            if whole:
                report.layer = layer_figures(vectors, tau)
            merged = self._rounded(entry, base.to(self.dtype) + tau.cpu())
            report.changed += int(tau.count_nonzero())
            report.kept += int((merged != unmerged).sum())
            yield merged
        if not moved and rule.method is not None:
            report.rule = "unchanged"

    def _task_vectors(self, name: str, base: Tensor, rows: slice | None) -> Tensor:
        """τ_i = W_i − W_0 of all experts, K × the block's shape, on the merging device."""
        vectors = torch.empty(len(self.experts), *base.shape, dtype=self.dtype)
        for vector, expert, names in zip(vectors, self.experts, self.names, strict=True):
            vector.copy_(self._read(expert, names[name], rows)).sub_(base.to(self.dtype))
        return vectors.to(self.config.device)

    def _read(self, checkpoint: Checkpoint, key: str, rows: slice | None) -> Tensor:
        tensor = checkpoint.read(key, rows)
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"{checkpoint.path}: {key} has entries that aren't finite (NaN or infinite); use an"
                " earlier checkpoint of that run."
            )
        return tensor

    def _check_same(self, name: str, base: Tensor, rows: slice | None) -> None:
        for expert, names in zip(self.experts, self.names, strict=True):
            if not torch.equal(expert.read(names[name], rows), base):
                raise InputError(
                    f"{expert.path}: {names[name]} differs from the base's and has dtype"
                    f" {base.dtype}, which can't be merged; only floating-point weights of 16 bits"
                    " and more can."
                )

    def _saved_dtype(self, name: str) -> torch.dtype:
        stored = self.base.dtype(name)
        if self.config.save_dtype is None or stored not in MERGEABLE:
            return stored
        return getattr(torch, self.config.save_dtype)

    def _rounded(self, entry: Entry, values: Tensor) -> Tensor:
        rounded = values.to(entry.dtype)
        if not torch.isfinite(rounded).all():
            raise InputError(
                f"{entry.name}: the merged weights don't fit {entry.dtype} (they become infinite);"
                " set save_dtype: float32, or a smaller scale."
            )
        return rounded


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
    for warning in warnings:
        logger.warning("%s", warning)
    return warnings


def _report(job: _Job, result: MergeResult) -> dict[str, Any]:
    """The content of `merge_report.json`; the same inputs give the same bytes."""
    config = job.config.model_dump(mode="json", exclude={"output"})
    config["parameters"] = job.settings.model_dump(mode="json")
    return {
        "config": config,
        "found": {
            "base": job.base.describe(),
            "experts": [expert.describe() for expert in job.experts],
        },
        "versions": {
            "amm": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "copied_files": result.copied_files,
        "rounding_kept": result.rounding_kept,
        "warnings": result.warnings,
        "tensors": [asdict(tensor) for tensor in result.tensors],
    }
