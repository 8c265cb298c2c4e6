"""Takes merged blocks in, writes them, and records every tensor that is complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from amm.checkpoints.writer import SafetensorsWriter
from amm.diagnostics import LayerFigures, together
from amm.engines.job import Job, Merged
from amm.engines.manifest import Manifest

Progress = Callable[[str, float], None]


@dataclass
class TensorReport:
    """What became of one tensor.

    Attributes:
        name: its key in the output.
        rule: the method that merged it, `base` (left as it is by `other_tensors`), `unchanged` (no
            expert moved it), or `copied from expert N`, which alone has it.
        changed: entries that the merge moved, before rounding.
        kept: how many of them still differ from the base after rounding to the saved dtype.
        layer: figures of a linear layer's weight, or of all in a stack, where some expert moved it.
    """

    name: str
    rule: str
    changed: int = 0
    kept: int = 0
    layer: LayerFigures | None = None


@dataclass
class _Open:
    report: TensorReport
    moved: bool = False
    layers: list[LayerFigures] = field(default_factory=list)


@dataclass
class Recorder:
    """Everything that is done with results, by one thread at a time.

    Attributes:
        job: the merge.
        weights: writer of the merged weights.
        sides: writer of the method's side file, if it has one.
        manifest: gets each tensor when its bytes are written.
        progress: called after each tensor.
        reports: name → report of the tensors that are complete.
    """

    job: Job
    weights: SafetensorsWriter
    sides: SafetensorsWriter | None
    manifest: Manifest
    progress: Progress | None
    reports: dict[str, TensorReport] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._total = sum(self.job.cost(entry.name) for entry in self.job.entries)
        self._done = 0.0

    def resume(self) -> list[str]:
        """Take over the tensors of the manifest whose bytes are there.

        Returns:
            The tensors that are left to do, in the order of the files.
        """
        for name, record in self.manifest.tensors.items():
            written = self.weights.take_over(name, record["checksum"]) and all(
                writer.take_over(side, checksum)
                for (writer, side), checksum in zip(
                    self._sides_of(name), record["sides"], strict=True
                )
            )
            if written:
                self.reports[name] = _report(record["report"])
                self._done += self.job.cost(name)
        if self.reports and self.progress is not None:
            self.progress("resuming", self._done / self._total)
        return [entry.name for entry in self.weights.plan if entry.name not in self.reports]

    def add(self, name: str, merged: Merged) -> None:
        """Write the next block of a tensor; blocks of one tensor come in order."""
        rule = self.job.rule(name)
        tensor = self._open.setdefault(name, _Open(TensorReport(name, rule.name)))
        tensor.moved |= merged.moved
        tensor.report.changed += merged.changed
        tensor.report.kept += merged.kept
        if merged.layer is not None:
            tensor.layers.append(merged.layer)
        for (writer, side), data in zip(self._sides_of(name), merged.sides, strict=True):
            writer.append(side, data.data)
        if self.weights.append(name, merged.weights.data):
            if rule.method is not None and not tensor.moved:
                tensor.report.rule = "unchanged"
            tensor.report.layer = together(tensor.layers) if tensor.layers else None
            del self._open[name]
            self._complete(tensor.report)

    def ordered_reports(self) -> list[TensorReport]:
        """The reports in the order of the files."""
        return [self.reports[entry.name] for entry in self.weights.plan]

    def finish(self) -> None:
        """Flush the files."""
        self.weights.finish()
        if self.sides is not None:
            self.sides.finish()

    def _sides_of(self, name: str) -> list[tuple[SafetensorsWriter, str]]:
        """A tensor's tensors in the side file, each with the file's writer."""
        if self.sides is None:
            return []
        return [(self.sides, side.name) for side in self.job.sides.get(name, ())]

    def _complete(self, report: TensorReport) -> None:
        name = report.name
        record = {
            "checksum": self.weights.checksum(name),
            "sides": [writer.checksum(side) for writer, side in self._sides_of(name)],
            "report": asdict(report),
        }
        self.manifest.add_tensor(name, record)
        self.reports[name] = report
        self._done += self.job.cost(name)
        if self.progress is not None:
            self.progress(name, self._done / self._total)


def _report(values: dict[str, Any]) -> TensorReport:
    layer = values["layer"]
    if layer is not None:
        lists = {key: tuple(value) for key, value in layer.items() if isinstance(value, list)}
        layer = LayerFigures(**layer | lists)
    return TensorReport(**values | {"layer": layer})
