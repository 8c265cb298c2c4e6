"""The models of a merge, opened once: what plans, looks at and carries out a merge shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amm.checkpoints import Checkpoint, open_checkpoint
from amm.checkpoints.keys import Matching, match
from amm.checkpoints.rebased import RebasedCheckpoint
from amm.checkpoints.union import unite
from amm.config import UNION, Expert, MergeConfig


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
    def folders(self) -> dict[Path, bool]:
        """Folders of the models' files → whether one of them has parts of its own, in a union."""
        owners = set(self.matching.owners.values())
        folders: dict[Path, bool] = {}
        for number, folder in enumerate(m.files_folder for m in (self.base, *self.experts)):
            if folder is not None:
                folders[folder] = folders.get(folder, False) or number in owners
        return folders


def open_models(config: MergeConfig, *, sampled: bool = False) -> Models:
    """Open the base and the experts of a merge.

    Args:
        config: the merge.
        sampled: see `match`.

    Raises:
        InputError: an input can't be read at all, or see `amm.checkpoints.union.unite`.
    """
    union = config.parts == UNION
    base = open_checkpoint(config.base)
    partial = [config.partial_experts or expert.partial for expert in config.experts]
    experts = [
        _open(expert, base, part, union, sampled)
        for expert, part in zip(config.experts, partial, strict=True)
    ]
    if union:
        base, found = unite(base, experts, partial, config.copy_files_from, sampled=sampled)
        return Models(base, experts, found)
    return Models(base, experts, match(base, experts, partial=partial, sampled=sampled))


def _open(
    expert: Expert, base: Checkpoint, partial: bool, union: bool, sampled: bool
) -> Checkpoint:
    if expert.base is None:
        return open_checkpoint(expert.path, base)
    own = open_checkpoint(expert.base, base)
    return RebasedCheckpoint(base, open_checkpoint(expert.path, own), own, partial, union, sampled)
