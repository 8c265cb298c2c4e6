"""What the inputs' weights say about each other, tensor by tensor: norms, angles, what didn't move.

All figures follow from inner products, so that a tensor is read once, in blocks of rows, and those
of several tensors add up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amm.checkpoints import Checkpoint
from amm.checkpoints.keys import (
    MERGEABLE,
    SAMPLE_ENTRIES,
    layout_of,
    row_blocks,
    sampled_rows,
)

READ_ENTRIES = 2**21
_GROUPS = (
    ("head", r"(^|\.)lm_head\."),
    ("embedding", r"(^|\.)(embed_tokens|wte)\."),
    (
        "merger",
        r"(^|\.)(visual\.(.*\.)?\w*merger\w*|multi_modal_projector|connector|aligner|mlp1)\.",
    ),
    ("vision", r"(^|\.)(visual|vision_\w+|image_\w+)\."),
)


def group_of(name: str) -> str:
    """The part of the model that a tensor belongs to.

    Returns:
        `head`, `embedding`, `merger` (what joins vision to language), `vision` or `language`.
    """
    return next((group for group, pattern in _GROUPS if re.search(pattern, name)), "language")


def kind_of(name: str) -> str:
    """A tensor's name with `*` for layer numbers: `model.layers.*.mlp.down_proj.weight`."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def layer_of(name: str) -> int | None:
    """The first layer number in a tensor's name, or None."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Products:
    """Inner products and counts over the entries that were read, for K experts.

    Attributes:
        read: entries that were read of each model.
        base: ‖W_0‖².
        along: ⟨τ_i, W_0⟩, K.
        gram: ⟨τ_i, τ_j⟩, K × K.
        unchanged: entries with W_i = W_0 exactly, K.
        unchanged_bf16: entries with W_i = W_0 after rounding both to bfloat16, K.
    """

    read: int
    base: float
    along: Tensor
    gram: Tensor
    unchanged: Tensor
    unchanged_bf16: Tensor

    def __add__(self, other: Products) -> Products:
        mine, others = vars(self), vars(other)
        return Products(**{name: mine[name] + others[name] for name in mine})

    @property
    def finite(self) -> bool:
        """Whether no entry that was read is NaN or infinite."""
        return bool(torch.isfinite(self.gram).all()) and self.base < float("inf")

    @property
    def norms(self) -> Tensor:
        """‖τ_i‖, K."""
        return self.gram.diagonal().sqrt()

    @property
    def relative_norms(self) -> Tensor:
        """‖τ_i‖ / ‖W_0‖, K; infinite where only the base is zero."""
        return (self.norms / self.base**0.5).nan_to_num(nan=0.0, posinf=float("inf"))

    @property
    def base_cosines(self) -> Tensor:
        """cos(W_i, W_0), K; 1 where either is zero."""
        experts = self.base + 2 * self.along + self.gram.diagonal()
        cosines = (self.base + self.along) / (self.base * experts.clamp_min(0)).sqrt()
        return cosines.nan_to_num(nan=1.0).clamp(-1, 1)

    @property
    def cosines(self) -> Tensor:
        """cos(τ_i, τ_j), K × K; 0 where either is zero."""
        return (self.gram / self.norms.outer(self.norms)).nan_to_num(nan=0.0).clamp(-1, 1)

    @property
    def distances(self) -> Tensor:
        """‖W_i − W_j‖² between all models, the base first, (K + 1) × (K + 1)."""
        count = len(self.gram) + 1
        padded = self.gram.new_zeros(count, count)
        padded[1:, 1:] = self.gram
        squares = padded.diagonal()
        return (squares[:, None] + squares[None] - 2 * padded).clamp_min(0)


@dataclass(frozen=True)
class Surveyed:
    """One tensor's inner products.

    Attributes:
        name: its key in the base.
        shape: of the whole tensor.
        products: over what was read of it.
        linear: it is the weight of a linear layer.
    """

    name: str
    shape: tuple[int, ...]
    products: Products
    linear: bool

    def frozen(self, expert: int) -> bool:
        """Whether the expert left all that was read as it was."""
        return int(self.products.unchanged[expert]) == self.products.read


def survey(
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    names: Sequence[Mapping[str, str | None]],
    *,
    deep: bool,
) -> Iterator[Surveyed]:
    """Compare the experts with the base, a tensor at a time.

    Args:
        base: the base.
        experts: K experts.
        names: for each expert, the base's key → its own, as `keys.match` finds them; tensors that
            don't fit in some expert are left out.
        deep: read everything, not a sample of at most about `SAMPLE_ENTRIES` a tensor.

    Yields:
        One result for each tensor with entries that can be merged, in the base's order.
    """
    matrices = layout_of(base).matrices
    for key in base.keys():
        shape = base.shape(key)
        if base.dtype(key) not in MERGEABLE or 0 in shape or not all(key in own for own in names):
            continue
        sources = [(base, key)]
        for expert, own in zip(experts, names, strict=True):
            name = own[key]
            sources.append((base, key) if name is None else (expert, name))
        parts = row_blocks(shape, READ_ENTRIES) if deep else sampled_rows(shape)
        blocks = (
            products(origin, trained)
            for rows in parts
            for origin, *trained in _pieces(
                [model.read(source, rows) for model, source in sources], deep
            )
        )
        yield Surveyed(key, shape, total(blocks), key in matrices)


def _pieces(blocks: Sequence[Tensor], deep: bool) -> Iterator[tuple[Tensor, ...]]:
    """The models' blocks, whose rows may be long, in pieces; for a sample the first ones."""
    flat = [block.flatten() for block in blocks]
    if not deep:
        flat = [entries[:SAMPLE_ENTRIES] for entries in flat]
    return zip(*(entries.split(READ_ENTRIES) for entries in flat), strict=True)


def total(parts: Iterable[Products]) -> Products:
    """Sum of what was measured on several parts, at least one."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


def products(base: Tensor, experts: Sequence[Tensor]) -> Products:
    """Measure one tensor, or one block of it.

    Args:
        base: W_0, any floating dtype.
        experts: K tensors W_i of its shape.
    """
    origin = base.float().flatten()
    rows = torch.stack([origin, *(expert.float().flatten() - origin for expert in experts)])
    inner = rows.double() @ rows.double().T
    rounded = base.bfloat16()
    return Products(
        read=origin.numel(),
        base=inner[0, 0].item(),
        along=inner[0, 1:],
        gram=inner[1:, 1:],
        unchanged=origin.numel() - rows[1:].count_nonzero(dim=1),
        unchanged_bf16=torch.stack([(e.bfloat16() == rounded).sum() for e in experts]),
    )
