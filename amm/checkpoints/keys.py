"""Which tensor of an expert belongs to which of the base: names, shapes, tied heads.

The base's keys are the output's keys. Everything that doesn't fit is reported at once, before any
work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from amm.checkpoints.base import Checkpoint
from amm.errors import InputError

RENAMED_PREFIXES = {
    "model.language_model.": "model.",
    "model.visual.": "visual.",
}
"""Prefix → the older prefix for the same weights.

Qwen2-VL and Qwen2.5-VL: in memory since transformers 4.52, on the left; before, and on disk, on the
right.
"""

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
MERGEABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BLOCK_ENTRIES = 2**24


@dataclass(frozen=True)
class _Difference:
    expert: str
    key: str
    in_base: str
    in_expert: str


def older_name(key: str) -> str:
    """The name under which all generations of transformers agree on a tensor."""
    for new, old in RENAMED_PREFIXES.items():
        if key.startswith(new):
            return old + key.removeprefix(new)
    return key


def row_blocks(shape: Sequence[int], entries: int = BLOCK_ENTRIES) -> list[slice | None]:
    """Slices of the first dimension of at most about so many entries; [None] for a scalar."""
    if not shape or 0 in shape:
        return [None]
    rows = max(1, entries * shape[0] // torch.Size(shape).numel())
    return [slice(at, min(at + rows, shape[0])) for at in range(0, shape[0], rows)]


def align(base: Checkpoint, experts: Sequence[Checkpoint]) -> list[dict[str, str]]:
    """Match every expert's tensors with the base's.

    Args:
        base: names and shapes that the output will have.
        experts: what is to be merged into it.

    Returns:
        For each expert, the base's key → the expert's key, for all of the base's keys.

    Raises:
        InputError: a table of all tensors that are missing, left over, or of another shape; or an
            expert's head that differs from its embedding although the base ties the two.
    """
    matched, differences = [], []
    for expert in experts:
        names, found = _match(base, expert)
        matched.append(names)
        differences += found
    if differences:
        raise InputError(_table(differences))
    return matched


def _match(base: Checkpoint, expert: Checkpoint) -> tuple[dict[str, str], list[_Difference]]:
    where = str(expert.path)
    by_name: dict[str, str] = {}
    for key in expert.keys():
        twin = by_name.setdefault(older_name(key), key)
        if twin != key:
            raise InputError(
                f"{where} holds both {twin} and {key}, two names of one tensor; remove one."
            )
    names, differences = {}, []
    for key in base.keys():
        match = by_name.pop(older_name(key), None)
        if match is None:
            differences.append(_Difference(where, key, _shape(base, key), "missing"))
            continue
        names[key] = match
        if base.shape(key) != expert.shape(match):
            differences.append(_Difference(where, key, _shape(base, key), _shape(expert, match)))
        elif base.dtype(key) != expert.dtype(match) and base.dtype(key) not in MERGEABLE:
            both = f"{base.dtype(key)}", f"{expert.dtype(match)}"
            differences.append(_Difference(where, key, *both))
    embedding = next((names[key] for key in names if older_name(key) == EMBEDDING), None)
    if HEAD in by_name and embedding is not None:
        _check_tied(expert, by_name.pop(HEAD), embedding)
    differences += [
        _Difference(where, key, "missing", _shape(expert, key)) for key in by_name.values()
    ]
    return names, differences


def _check_tied(expert: Checkpoint, head: str, embedding: str) -> None:
    same = expert.shape(head) == expert.shape(embedding) and all(
        torch.equal(expert.read(head, rows), expert.read(embedding, rows))
        for rows in row_blocks(expert.shape(head))
    )
    if not same:
        raise InputError(
            f"{expert.path}: {head} differs from {embedding}, but the base has no {HEAD}: its"
            " head is tied to the embedding. Untie the base (save it with a head of its own), or"
            " use an expert that was trained with a tied head."
        )


def _shape(checkpoint: Checkpoint, key: str) -> str:
    return "×".join(map(str, checkpoint.shape(key))) or "scalar"


def _table(differences: Sequence[_Difference]) -> str:
    head = _Difference("expert", "tensor", "in the base", "in the expert")
    rows = [(d.expert, d.key, d.in_base, d.in_expert) for d in (head, *differences)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return (
        f"{len(differences)} tensors don't fit the base; nothing was merged. Give experts that were"
        " trained from this base.\n" + "\n".join(line.rstrip() for line in lines)
    )
