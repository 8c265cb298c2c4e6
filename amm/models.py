"""The models of a merge, opened once: what plans, looks at and carries out a merge shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amm.checkpoints import Checkpoint, open_checkpoint
from amm.checkpoints.keys import Matching, match
from amm.checkpoints.rebased import RebasedCheckpoint
from amm.checkpoints.union import unite
from amm.config import Expert, MergeConfig


@dataclass(frozen=True)
class Models:
    """Open checkpoints and where their tensors are.

    Attributes:
        base: the base's checkpoint; in a union with the parts that experts alone have.
        experts: the experts'.
        matching: where the base's tensors are in the experts.
    """

    base: Checkpoint
    experts: list[Checkpoint]
    matching: Matching

    @property
    def owners(self) -> list[Path]:
        """Folders of the files of the models that have parts of their own, in a union."""
        models = (self.base, *self.experts)
        folders = (models[i].files_folder for i in sorted(set(self.matching.owners.values())))
        return list(dict.fromkeys(folder for folder in folders if folder is not None))


def open_models(config: MergeConfig) -> Models:
    """Open the base and the experts of a merge.

    Raises:
        InputError: an input can't be read at all, or see `amm.checkpoints.union.unite`.
    """
    union = config.parts == "union"
    base = open_checkpoint(config.base)
    partial = [config.partial_experts or expert.partial for expert in config.experts]
    experts = [
        _open(expert, base, part, union)
        for expert, part in zip(config.experts, partial, strict=True)
    ]
    found = match(base, experts, partial=partial, union=union)
    if union:
        base, found = unite(base, experts, found, config.copy_files_from)
    return Models(base, experts, found)


def _open(expert: Expert, base: Checkpoint, partial: bool, union: bool) -> Checkpoint:
    if expert.base is None:
        return open_checkpoint(expert.path, base)
    own = open_checkpoint(expert.base, base)
    return RebasedCheckpoint(base, open_checkpoint(expert.path, own), own, partial, union)
