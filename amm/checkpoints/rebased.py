"""An expert that was trained from another model than the merge's base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from amm.checkpoints.base import Checkpoint
from amm.checkpoints.keys import MERGEABLE, MISSING, match
from amm.errors import InputError


class RebasedCheckpoint:
    """What an expert learnt beyond a model of its own, on top of the merge's base.

    Its weights are W_0 + (W_i − B_i), in float64, so that the differences from the base W_0 are
    those from its own base B_i; names are the expert's.

    Args:
        base: W_0.
        expert: W_i.
        own: B_i.
        partial: the expert may lack tensors, which are as in the base then.
        sampled: see `match`.
        union: the two may have more than the base, which is the expert's as it is, and may lack
            what both lack.

    Raises:
        InputError: the three don't have the same tensors.
    """

    def __init__(
        self,
        base: Checkpoint,
        expert: Checkpoint,
        own: Checkpoint,
        partial: bool,
        union: bool,
        sampled: bool,
    ) -> None:
        self._base, self._expert, self._own = base, expert, own
        found = match(
            base,
            [expert, own],
            partial=[partial or union, False],
            union=union,
            sampled=sampled,
        )
        names, self._own_names = found.names
        wrong = [
            each
            for each in found.differences
            if not union or each.in_expert != MISSING or names.get(each.key) is not None
        ]
        replace(found, differences=wrong).check()
        self._extra = set(found.extra[0].values())
        self._keys = {name: key for key, name in names.items() if name is not None}
        self.path: Path = expert.path
        self.files_folder = expert.files_folder

    def keys(self) -> list[str]:
        """The expert's names of what the base has too, and of what it has beside that."""
        return sorted({*self._keys, *self._extra})

    def shape(self, key: str) -> tuple[int, ...]:
        return self._expert.shape(key)

    def dtype(self, key: str) -> torch.dtype:
        """See `Checkpoint`; float64 of what can be merged."""
        stored = self._expert.dtype(key)
        return torch.float64 if stored in MERGEABLE and key in self._keys else stored

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        expert = self._expert.read(key, rows)
        if key in self._extra:
            return expert
        base, own_name = self._base.read(self._keys[key], rows), self._own_names[self._keys[key]]
        own = base if own_name is None else self._own.read(own_name, rows)
        if base.dtype in MERGEABLE:
            return base.double() + (expert.double() - own.double())
        if not torch.equal(expert, own):
            raise InputError(
                f"{self.path}: {key} differs from that of {self._own.path} and has dtype"
                f" {expert.dtype}, which can't be merged."
            )
        return base

    def files(self) -> list[Path]:
        """See `Checkpoint`; its own base's too."""
        return [*self._expert.files(), *self._own.files()]

    def describe(self) -> str:
        return f"{self._expert.describe()}, trained from {self._own.path}"
