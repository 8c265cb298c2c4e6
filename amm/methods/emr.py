"""EMR-Merging (arXiv 2405.17461): one unified model, and a mask and a factor for each expert.

    elect    γ = sign(Σ τ_i),  τ = γ ⊙ max_i |τ_i| over the τ_i that have the sign γ          [V]
    mask     M_i = (τ_i ⊙ τ > 0)                                                             [V]
    rescale  λ_i = Σ |τ_i| / Σ |M_i ⊙ τ|, over all entries of the model                      [V]
    expert i is restored as   W_0 + λ_i · M_i ⊙ τ,   the merged model is   W_0 + τ

Where the τ_i cancel exactly, γ and τ are 0. λ_i is 1 for an expert that equals the base.

Beside the weights the merge leaves `SIDE_FILE` with, for each tensor of shape rows × … and width
entries in a row,

    <name>.masks   rows × K × ⌈width/8⌉, uint8   M_i, eight entries a byte, the first in bit 0
    <name>.mass    rows × K × 2, float64         Σ |τ_i| and Σ |M_i ⊙ τ| over the row

It is a safetensors file with another ending, because vLLM takes every `*.safetensors` beside the
weights for weights. τ isn't stored twice: `restore` takes it from the merged weights and the base,
so merge with `save_dtype: float32`; bf16 would round small changes away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from amm.errors import InputError
from amm.methods.registry import SideEntry, SideFile, register
from amm.settings import Settings

SIDE_FILE = "emr.masks"
_MASKS, _MASS = ".masks", ".mass"


def side_entries(name: str, shape: tuple[int, ...], experts: int) -> list[SideEntry]:
    """The two tensors of the side file that belong to one merged tensor."""
    rows, width = _rows_and_width(shape)
    return [
        SideEntry(name + _MASKS, (rows, experts, -(-width // 8)), torch.uint8),
        SideEntry(name + _MASS, (rows, experts, 2), torch.float64),
    ]


def side_tensors(task_vectors: Tensor, tau: Tensor, settings: Settings) -> list[Tensor]:
    """Their rows for one block.

    Args:
        task_vectors: τ_i, K × the block's shape.
        tau: what `emr` returned for them.
        settings: none.
    """
    rows, width = _rows_and_width(tuple(tau.shape))
    masks = torch.empty(rows, len(task_vectors), -(-width // 8), dtype=torch.uint8)
    mass = torch.empty(rows, len(task_vectors), 2, dtype=torch.float64)
    unified = tau.view(rows, width)
    for expert, vector in enumerate(task_vectors):
        vector = vector.reshape(rows, width)
        mask = vector.sign() * unified > 0
        masks[:, expert] = _packed(mask)
        mass[:, expert, 0] = vector.abs().sum(dim=1, dtype=torch.float64)
        mass[:, expert, 1] = torch.where(mask, unified.abs(), 0).sum(dim=1, dtype=torch.float64)
    return [masks, mass]


@register(
    "emr",
    settings=Settings,
    tensors="all",
    elementwise=True,
    side=SideFile(SIDE_FILE, side_entries, side_tensors),
)
def emr(task_vectors: Tensor, settings: Settings) -> Tensor:
    """K × a block's shape → τ, that shape: the elected sign's largest magnitude."""
    sign = task_vectors.sum(dim=0, dtype=torch.float64).sign().to(task_vectors.dtype)
    largest = torch.zeros_like(sign)
    for vector in task_vectors:
        torch.maximum(largest, vector * sign, out=largest)
    return largest * sign


def restore(
    folder: str | Path, expert: int, base: str | Path | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The restored weights of one expert, W_0 + λ_i · M_i ⊙ τ, a tensor at a time.

    `model.load_state_dict(dict(restore("merged", 0)))` puts them into a model.

    Args:
        folder: what a merge with `emr` wrote.
        expert: i, from 0, in the order of the merge.
        base: folder of W_0; by default the one that the merge's `provenance.json` names.

    Yields:
        Name and tensor, in the dtype of the merged weights.

    Raises:
        InputError: no such expert, no side file, or no base.
    """
    from amm.checkpoints import open_checkpoint
    from amm.checkpoints.keys import row_blocks

    folder = Path(folder)
    side = _open_side(folder)
    names = [name.removesuffix(_MASS) for name in side.keys() if name.endswith(_MASS)]
    factor = _factor(side, names, expert, folder)
    merged = open_checkpoint(folder)
    original = open_checkpoint(_base_of(folder) if base is None else base)
    for name in merged.keys():
        if name not in names:
            yield name, merged.read(name)
            continue
        restored = torch.empty(merged.shape(name), dtype=merged.dtype(name))
        masks = side.get_slice(name + _MASKS)
        for rows in row_blocks(restored.shape):
            start = original.read(name, rows).double()
            tau = merged.read(name, rows).double() - start
            mask = _unpacked(masks[rows or slice(None), expert], tau.shape)
            restored[rows or ...] = torch.where(mask, start + factor * tau, start)
        yield name, restored


def _rows_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return rows, torch.Size(shape[1:]).numel()


def _packed(mask: Tensor) -> Tensor:
    """rows × width booleans → rows × ⌈width/8⌉ bytes."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=1, bitorder="little"))


def _unpacked(masks: Tensor, shape: torch.Size) -> Tensor:
    """rows × ⌈width/8⌉ bytes → booleans of a shape with these rows."""
    width = _rows_and_width(tuple(shape))[1]
    bits = np.unpackbits(masks.numpy(), axis=1, count=width, bitorder="little")
    return torch.from_numpy(bits).bool().view(shape)


def _open_side(folder: Path) -> safe_open:
    try:
        return safe_open(folder / SIDE_FILE, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder / SIDE_FILE} can't be read ({error}); give the folder that a merge with"
            " method emr wrote."
        ) from None


def _factor(side: safe_open, names: list[str], expert: int, folder: Path) -> float:
    """λ_i, from the sums over all tensors."""
    total = sum((side.get_tensor(name + _MASS).sum(dim=0) for name in names), torch.zeros(1, 2))
    if not 0 <= expert < len(total):
        raise InputError(f"{folder} holds experts 0 to {len(total) - 1}; there is no {expert}.")
    own, unified = total[expert].tolist()
    return own / unified if unified else 1.0


def _base_of(folder: Path) -> Path:
    from amm.checkpoints.files import read_json

    try:
        return Path(read_json(folder / "provenance.json", "a merge's report")["config"]["base"])
    except (InputError, KeyError, TypeError):
        raise InputError(
            f"{folder} has no provenance.json that names the base; give base=…"
        ) from None
