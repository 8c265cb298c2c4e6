"""Which tensor of an expert belongs to which of the base: names, shapes, tied heads.

The base's keys are the output's keys. Everything that doesn't fit is reported at once, before any
work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from amm.checkpoints.base import Checkpoint
from amm.errors import InputError

RENAMED_PREFIXES = {
    # The language model inside a vision-language model. Qwen2-VL, Qwen2.5-VL: `model.` on disk and
    # before transformers 4.52. LLaVA's family: `language_model.model.` there. Both, and Qwen3-VL
    # everywhere: `model.language_model.` in memory since.
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    # The same, saved from the model without its head.
    "language_model.": "model.",
    # The other parts of vision-language models, before 4.52 and on disk without `model.`; CLIP's
    # tower has lost a level of its own in transformers 5.
    "model.visual.": "visual.",
    "model.vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.": "vision_tower.",
    "vision_tower.vision_model.": "vision_tower.",
    "model.vision_model.": "vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.image_newline": "image_newline",
    "model.audio_tower.": "audio_tower.",
    "model.video_tower.": "video_tower.",
    "model.image_tower.": "image_tower.",
}
"""Prefix → the prefix that all generations of transformers are brought to. The first that a name
starts with counts."""

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
MERGEABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BLOCK_ENTRIES = 2**24

_TIED = "the embedding's"
_OWN = "differs from the embedding"


@dataclass(frozen=True)
class Difference:
    """Something of an expert that doesn't fit the base.

    Attributes:
        expert: its folder.
        key: the tensor, by the base's name where the base has it.
        in_base: its shape or dtype there, `missing`, or a word on a tied head.
        in_expert: the same.
    """

    expert: str
    key: str
    in_base: str
    in_expert: str


def common_name(key: str) -> str:
    """The name under which all generations of transformers agree on a tensor."""
    for prefix, common in RENAMED_PREFIXES.items():
        if key.startswith(prefix):
            return common + key.removeprefix(prefix)
    return key


def by_common_name(checkpoint: Checkpoint) -> dict[str, str]:
    """Common name → key, for all tensors of a checkpoint.

    Raises:
        InputError: two of its keys are names of one tensor.
    """
    names: dict[str, str] = {}
    for key in checkpoint.keys():
        twin = names.setdefault(common_name(key), key)
        if twin != key:
            raise InputError(
                f"{checkpoint.path} holds both {twin} and {key}, two names of one tensor; remove"
                " one."
            )
    return names


def row_blocks(
    shape: Sequence[int], entries: int = BLOCK_ENTRIES, multiple: int = 1
) -> list[slice | None]:
    """Slices of the first dimension of at most about so many entries; [None] for a scalar.

    All but the last have a multiple of `multiple` entries.
    """
    if not shape or 0 in shape:
        return [None]
    width = math.prod(shape[1:])
    step = multiple // math.gcd(multiple, width)
    rows = max(1, entries // (width * step)) * step
    return [slice(at, min(at + rows, shape[0])) for at in range(0, shape[0], rows)]


def same_tensor(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Whether two tensors of a checkpoint have the same shape and entries."""
    return checkpoint.shape(one) == checkpoint.shape(other) and all(
        torch.equal(checkpoint.read(one, rows), checkpoint.read(other, rows))
        for rows in row_blocks(checkpoint.shape(one))
    )


def align(base: Checkpoint, experts: Sequence[Checkpoint]) -> list[dict[str, str]]:
    """Match every expert's tensors with the base's.

    An expert's head that equals its embedding is left out where the base has none; where the base
    has a head that equals its embedding and the expert has none, the expert's is its embedding.

    Args:
        base: names and shapes that the output will have.
        experts: what is to be merged into it.

    Returns:
        For each expert, the base's key → the expert's key, for all of the base's keys.

    Raises:
        InputError: a table of all tensors that are missing, left over, or of another shape, and of
            heads that are tied on one side only; or two keys are names of one tensor.
    """
    matches = [_match(base, expert) for expert in experts]
    found = [difference for _, differences in matches for difference in differences]
    if found:
        raise InputError(_table(found))
    return [names for names, _ in matches]


def differences(base: Checkpoint, experts: Sequence[Checkpoint]) -> list[Difference]:
    """All that `align` would put into its table, without raising.

    Raises:
        InputError: two keys of one checkpoint are names of one tensor.
    """
    return [found for expert in experts for found in _match(base, expert)[1]]


def _match(base: Checkpoint, expert: Checkpoint) -> tuple[dict[str, str], list[Difference]]:
    ours, theirs = by_common_name(base), by_common_name(expert)
    embedding = theirs.get(EMBEDDING)
    names: dict[str, str] = {}
    found: list[Difference] = []

    def differs(key: str, in_base: str, in_expert: str) -> None:
        found.append(Difference(str(expert.path), key, in_base, in_expert))

    for name, key in ours.items():
        match = theirs.pop(name, None)
        if match is None and name == HEAD and embedding is not None and EMBEDDING in ours:
            if same_tensor(base, key, ours[EMBEDDING]):
                match = embedding
            else:
                differs(key, _OWN, _TIED)
                continue
        if match is None:
            differs(key, _shape(base, key), "missing")
            continue
        names[key] = match
        if base.shape(key) != expert.shape(match):
            differs(key, _shape(base, key), _shape(expert, match))
        elif base.dtype(key) != expert.dtype(match) and not (
            base.dtype(key) in MERGEABLE and expert.dtype(match) in MERGEABLE
        ):
            differs(key, f"{base.dtype(key)}", f"{expert.dtype(match)}")
    if HEAD in theirs and embedding is not None and EMBEDDING in ours:
        head = theirs.pop(HEAD)
        if not same_tensor(expert, head, embedding):
            differs(head, _TIED, _OWN)
    for key in theirs.values():
        differs(key, "missing", _shape(expert, key))
    return names, found


def _shape(checkpoint: Checkpoint, key: str) -> str:
    return "×".join(map(str, checkpoint.shape(key))) or "scalar"


def _table(found: Sequence[Difference]) -> str:
    head = Difference("expert", "tensor", "in the base", "in the expert")
    rows = [(d.expert, d.key, d.in_base, d.in_expert) for d in (head, *found)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    advice = "Give experts that were trained from this base."
    if any(_TIED in (d.in_base, d.in_expert) for d in found):
        advice += (
            " A head is tied to the embedding in one of the two and has weights of its own in the"
            " other: save the tied one with a head of its own, or train with a tied head."
        )
    count = "1 tensor doesn't" if len(found) == 1 else f"{len(found)} tensors don't"
    return f"{count} fit the base; nothing was merged. {advice}\n" + "\n".join(
        line.rstrip() for line in lines
    )
