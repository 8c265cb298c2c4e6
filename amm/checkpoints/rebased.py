"""An expert that was trained from another model than the merge's base."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from amm.checkpoints.base import Checkpoint
from amm.checkpoints.keys import MERGEABLE, align
from amm.errors import InputError


class RebasedCheckpoint:
    """What an expert learnt beyond a model of its own, on top of the merge's base.

    Its weights are W_0 + (W_i − B_i), in float64, so that the differences from the base W_0 are
    those from its own base B_i; names are the merge's base's.

    Args:
        base: W_0.
        expert: W_i.
        own: B_i.
        partial: the expert may lack tensors, which are as in the base then.
        sampled: see `match`.

    Raises:
        InputError: the three don't have the same tensors.
    """

    def __init__(
        self,
        base: Checkpoint,
        expert: Checkpoint,
        own: Checkpoint,
        partial: bool,
        sampled: bool = False,
    ) -> None:
        self._base, self._expert, self._own = base, expert, own
        self._names, self._own_names = align(
            base, [expert, own], partial=[partial, False], sampled=sampled
        )
        self.path: Path = expert.path
        self.files_folder = expert.files_folder

    def keys(self) -> list[str]:
        """The base's names of the tensors that the expert has."""
        return [key for key in self._base.keys() if self._names[key] is not None]

    def shape(self, key: str) -> tuple[int, ...]:
        """See `Checkpoint`."""
        return self._base.shape(key)

    def dtype(self, key: str) -> torch.dtype:
        """See `Checkpoint`; float64 of what can be merged."""
        stored = self._base.dtype(key)
        return torch.float64 if stored in MERGEABLE else stored

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """See `Checkpoint`."""
        base, expert = self._base.read(key, rows), self._expert.read(self._names[key], rows)
        own_name = self._own_names[key]
        own = base if own_name is None else self._own.read(own_name, rows)
        if self._base.dtype(key) in MERGEABLE:
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
        """See `Checkpoint`."""
        return f"{self._expert.describe()}, trained from {self._own.path}"
