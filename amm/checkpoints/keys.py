"""Which tensor of an expert belongs to which of the base: names, shapes, copies of one matrix.

The base's keys are the output's keys. Everything that doesn't fit is reported at once, before any
work.

A matrix of the vocabulary that is stored under several names, as a tied head is, is one tensor: it
must be one in every expert, and is merged as one.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from amm.checkpoints.base import Checkpoint, Tensors
from amm.checkpoints.files import read_config
from amm.errors import InputError
from amm.layers import Layout, layout, settings_in

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

SAMPLE_PIECES = 4
SAMPLE_ENTRIES = 2**16
"""Entries that a sample reads of a tensor, in evenly spread pieces."""

_WRAPPER = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""Of torch.compile, FSDP, activation checkpointing and DeepSpeed, anywhere in a name."""

_MIXTRAL_BLOCK = ".block_sparse_moe."
"""What Mixtral, Phi-MoE and MiniMax call `mlp` on disk, and in memory before transformers 5."""

_RECOMPUTED = frozenset(
    (
        "inv_freq",
        "original_inv_freq",
        "cos_cached",
        "sin_cached",
        "freqs_cis",
        "position_ids",
        "masked_bias",
        "relative_position_index",
        "relative_coords_table",
    )
)
"""Buffers that a model computes from its configuration: loaders pass them over."""

_WORDS = 8
"""So many parts of a name are tried as a prefix."""

_FACTOR = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)")
_NOT_TEXT = re.compile(r"visi|visual|image|video|audio|speech|wav|quant")

MISSING = "missing"
SEVERAL = "missing, in several experts"
_TIED = "the embedding's"
_OWN = "differs from the embedding"
_PART = "a part of an adapter"


@dataclass(frozen=True)
class Difference:
    """Something of an expert that doesn't fit the base.

    Attributes:
        expert: its folder.
        key: the tensor, by the base's name where the base has it.
        in_base: its shape or dtype there, `missing`, or words on a tied head or an adapter.
        in_expert: the same.
    """

    expert: str
    key: str
    in_base: str
    in_expert: str


@dataclass(frozen=True)
class Matching:
    """Where each of the base's tensors is in the experts.

    Attributes:
        layout: what the base's tensors are.
        copies: further name of a matrix that the base stores several times → its first name.
        names: for each expert, the base's key → the expert's, where the two fit; None where the
            base's own tensor stands for the expert's.
        carried: for each expert, the base's tensors that it lacks, where that is asked for.
        differences: all that doesn't fit.
        notes: sentences on what was passed over, renamed, or taken from the base.
        plain: for each expert, its key → the same without wrappers' prefixes.
        extra: for each expert, what the base lacks, where that is no difference: common name → key.
        owners: tensor that one model alone has, where they are united → that model's number, 0 of
            the base; such tensors aren't in `names`.
    """

    layout: Layout
    copies: dict[str, str]
    names: list[dict[str, str | None]]
    carried: list[list[str]]
    differences: list[Difference]
    notes: list[str]
    plain: list[dict[str, str]]
    extra: list[dict[str, str]]
    owners: dict[str, int] = field(default_factory=dict)

    def check(self) -> Matching:
        """The same, if there are no differences.

        Raises:
            InputError: a table of them, and what to do.
        """
        if self.differences:
            raise InputError(_table(self.differences))
        return self


def common_name(key: str) -> str:
    """The name under which all generations of transformers agree on a tensor."""
    key = _WRAPPER.sub("", key).replace(_MIXTRAL_BLOCK, ".mlp.")
    for prefix, common in RENAMED_PREFIXES.items():
        if key.startswith(prefix):
            return common + key.removeprefix(prefix)
    return key


def by_common_name(
    checkpoint: Checkpoint, rename: Callable[[str], str] = lambda key: key
) -> dict[str, str]:
    """Common name → key, for all tensors of a checkpoint.

    Args:
        checkpoint: where they are.
        rename: what is done to a key first.

    Raises:
        InputError: two of its keys are names of one tensor.
    """
    names: dict[str, str] = {}
    for key in checkpoint.keys():
        twin = names.setdefault(common_name(rename(key)), key)
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


def sampled_rows(shape: Sequence[int], entries: int = SAMPLE_ENTRIES) -> list[slice | None]:
    """Evenly spread slices of the first dimension with about so many entries together."""
    size = math.prod(shape)
    if not shape or size <= entries:
        return [None]
    rows = max(1, entries // SAMPLE_PIECES * shape[0] // size)
    last = shape[0] - rows
    starts = sorted({last * piece // (SAMPLE_PIECES - 1) for piece in range(SAMPLE_PIECES)})
    return [slice(start, start + rows) for start in starts]


def matrices_of(shape: Sequence[int]) -> list[slice | None]:
    """Slices of the first dimension with one matrix each: of a stack, several; [None] else."""
    return [slice(at, at + 1) for at in range(shape[0])] if len(shape) == 3 else [None]


def same_tensor(checkpoint: Tensors, one: str, other: str, *, sampled: bool = False) -> bool:
    """Whether two tensors of a checkpoint have the same shape and entries, or those of a sample."""
    return _equal(checkpoint, one, checkpoint, other, sampled=sampled)


def _equal(one: Tensors, key: str, other: Tensors, name: str, *, sampled: bool = False) -> bool:
    dtype = torch.promote_types(one.dtype(key), other.dtype(name))
    cut = sampled_rows if sampled else row_blocks
    return one.shape(key) == other.shape(name) and all(
        torch.equal(one.read(key, rows).to(dtype), other.read(name, rows).to(dtype))
        for rows in cut(one.shape(key))
    )


def layout_of(checkpoint: Checkpoint) -> Layout:
    """What a checkpoint's tensors are."""
    shapes = {key: checkpoint.shape(key) for key in checkpoint.keys()}
    return layout(shapes, read_config(checkpoint.files_folder))


def match(
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    *,
    partial: bool | Sequence[bool] = False,
    union: bool = False,
    sampled: bool = False,
) -> Matching:
    """Match every expert's tensors with the base's.

    An expert may store a matrix of the vocabulary under other names than the base does, or more of
    them, as long as they hold the same. Its names may all have, or lack, one beginning. Buffers
    that are computed anew, and counters, are the base's.

    Args:
        base: names and shapes that the output will have.
        experts: what is to be merged into it.
        partial: an expert may lack tensors; the base's stand for them. For all, or for each.
        sampled: matrices of the vocabulary are compared by a sample of their rows, which finds
            those equal that differ in other rows alone: for a look, not for a merge.
        union: an expert may have more than the base, buffers too: `Matching.extra`.

    Raises:
        InputError: two names of one checkpoint are names of one tensor, or the base's config.json
            ties two matrices that differ.
    """
    known = _Base(base, sampled)
    parts = [partial] * len(experts) if isinstance(partial, bool) else partial
    matches = [_Match(known, *pair, union) for pair in zip(experts, parts, strict=True)]
    notes: dict[str, list[str]] = defaultdict(list)
    for found in matches:
        for note in found.notes:
            notes[note].append(str(found.expert.path))
    return Matching(
        layout=known.layout,
        copies=known.copies,
        names=[found.names for found in matches],
        carried=[found.carried for found in matches],
        differences=[difference for found in matches for difference in found.differences],
        notes=[f"{', '.join(paths)}: {note}" for note, paths in notes.items()],
        plain=[found.plain for found in matches],
        extra=[found.extra for found in matches],
    )


class _Base:
    """A base, and what is known of its tensors."""

    def __init__(self, checkpoint: Checkpoint, sampled: bool) -> None:
        self.checkpoint = checkpoint
        self.same_tensor = functools.partial(same_tensor, sampled=sampled)
        self.names = by_common_name(checkpoint)
        self.layout = layout_of(checkpoint)
        tied = is_tied(read_config(checkpoint.files_folder))
        self.copies = self._copies(heads=tied is not False)
        self.groups: dict[str, list[str]] = defaultdict(list)
        for copy, first in self.copies.items():
            self.groups[first] = self.groups[first] or [first]
            self.groups[first].append(copy)
        head, embedding = self.names.get(HEAD), self.names.get(EMBEDDING)
        first_of = self.copies.get
        if tied and head and embedding and first_of(head, head) != first_of(embedding, embedding):
            raise InputError(
                f"{checkpoint.path}: its config.json ties {head} to {embedding}, and they differ:"
                " libraries load one or the other. Set tie_word_embeddings there to false, or"
                " remove the head from the weights."
            )

    def _copies(self, *, heads: bool) -> dict[str, str]:
        """Further name → first name, the shortest of an embedding if there is one."""
        embeddings = self.layout.embeddings
        several = self.layout.vocabulary if heads else embeddings
        firsts: dict[Any, list[str]] = defaultdict(list)
        copies: dict[str, str] = {}
        for key in sorted(several, key=lambda key: (key not in embeddings, len(key), key)):
            shape, row = self.checkpoint.shape(key), self.checkpoint.read(key, slice(1)).float()
            alike = firsts[shape, row.numpy().tobytes()]
            first = next((f for f in alike if self.same_tensor(self.checkpoint, key, f)), None)
            if first is None:
                alike.append(key)
            else:
                copies[key] = first
        return copies


class _Match:
    """One expert's tensors beside the base's; see `Matching`."""

    def __init__(self, base: _Base, expert: Checkpoint, partial: bool, union: bool) -> None:
        self.base, self.expert = base, expert
        self.plain = {key: _WRAPPER.sub("", key) for key in expert.keys()}
        self.extra: dict[str, str] = {}
        self.names: dict[str, str | None] = {}
        self.differences: list[Difference] = []
        self.notes: list[str] = []
        self.carried: list[str] = []
        self._kept: set[str] = set()
        theirs = self._their_names()
        own = {key: theirs.pop(name) for name, key in base.names.items() if name in theirs}
        self._tied = is_tied(read_config(expert.files_folder))
        self._words: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for key in own.keys() & base.layout.vocabulary:
            self._words[expert.shape(own[key])].append(own[key])
        for key in base.names.values():
            self._match(key, own, partial=partial and bool(own))
        for name, key in theirs.items():
            self._leave_out(name, key, union)
        if self._kept:
            self.notes.append(
                f"{', '.join(sorted(self._kept))}: buffers that loaders compute anew, or counters,"
                " which differ or are in one of the two only; the output has the base's."
            )
        if self.carried:
            self.notes.append(
                f"it covers a part of the base; {len(self.carried)} of {len(base.names)} tensors"
                f" are carried over from the base: {', '.join(parts_of(self.carried, own))}."
            )

    def _their_names(self) -> dict[str, str]:
        """Common name → key, brought to the base's beginning where the two share no name."""
        keys, ours = self.expert.keys(), self.base.names
        wrappers = {found[0] for key in keys for found in _WRAPPER.finditer(key)}
        if wrappers:
            self._read_without(", ".join(sorted(wrappers)))
        names = by_common_name(self.expert)
        if not names or names.keys() & ours.keys():
            return names

        def fitting(rename: Callable[[str, str], str], part: str) -> int:
            renamed = {common_name(rename(key, part)): key for key in keys}
            both = renamed.keys() & ours.keys()
            shape, base = self.expert.shape, self.base.checkpoint
            return sum(shape(renamed[name]) == base.shape(ours[name]) for name in both)

        longest = max(keys, key=len)
        less = [f"{beginning}." for beginning in _beginnings(longest)]
        more = [key.removesuffix(longest) for key in ours.values() if key.endswith(f".{longest}")]
        fits = {("without", part): fitting(str.removeprefix, part) for part in less}
        fits |= {("as", part): fitting(lambda key, p: p + key, part) for part in more[:_WORDS]}
        best = [way for way, count in fits.items() if 0 < count == max(fits.values())]
        if not best or (len(best) > 1 and best[0][0] == "as"):
            return names
        way, part = best[0]
        if way == "without":
            self._read_without(part)
            if all(key.startswith(part) for key in self.plain.values()):
                self.plain = {key: name.removeprefix(part) for key, name in self.plain.items()}
            return by_common_name(self.expert, lambda key: key.removeprefix(part))
        self.notes.append(f"its tensors are taken for those of the base that begin with {part}")
        self.plain = {key: part + name for key, name in self.plain.items()}
        return by_common_name(self.expert, lambda key: part + key)

    def _read_without(self, part: str) -> None:
        self.notes.append(f"its names are read without the prefix {part}")

    def _match(self, key: str, own: Mapping[str, str], *, partial: bool) -> None:
        base, expert = self.base.checkpoint, self.expert
        first = self.base.copies.get(key, key)
        stored = [own[twin] for twin in self.base.groups.get(first, [key]) if twin in own]
        if is_kept(base, key):
            self.names[key] = None
            if not stored or not _equal(base, key, expert, stored[0]):
                self._kept.add(key.rpartition(".")[2])
            return
        if not stored:
            self._lacks(key, partial=partial)
            return
        name = own.get(key, stored[0])
        if base.shape(key) != expert.shape(name):
            self._differs(key, shape_text(base, key), shape_text(expert, name))
        elif base.dtype(key) != expert.dtype(name) and not (
            base.dtype(key) in MERGEABLE and expert.dtype(name) in MERGEABLE
        ):
            self._differs(key, f"{base.dtype(key)}", f"{expert.dtype(name)}")
        elif name != stored[0] and not self.base.same_tensor(expert, name, stored[0]):
            self._differs(key, _TIED, _OWN)
        elif _FACTOR.search(key) and not _equal(base, key, expert, name):
            self._differs(key, _PART, "differs from it")
        else:
            self.names[key] = name

    def _lacks(self, key: str, *, partial: bool) -> None:
        """What only the base has."""
        base = self.base.checkpoint
        alike = key in self.base.layout.vocabulary and base.shape(key) in self._words
        if alike and (self._tied or (self._tied is None and not partial)):
            self._differs(key, _OWN, _TIED)
        elif partial:
            self.names[key] = None
            self.carried.append(key)
        else:
            self._differs(key, shape_text(base, key), MISSING)

    def _leave_out(self, name: str, key: str, union: bool) -> None:
        """What only the expert has."""
        twins = self._words.get(self.expert.shape(key), [])
        if not union and is_kept(self.expert, key):
            self._kept.add(key.rpartition(".")[2])
        elif any(self.base.same_tensor(self.expert, key, twin) for twin in twins):
            return
        elif twins and (not union or name == HEAD):
            self._differs(key, _TIED, _OWN)
        elif union and not _FACTOR.search(key):
            self.extra[name] = key
        else:
            what = _PART if _FACTOR.search(key) else shape_text(self.expert, key)
            self._differs(key, MISSING, what)

    def _differs(self, key: str, in_base: str, in_expert: str) -> None:
        self.differences.append(Difference(str(self.expert.path), key, in_base, in_expert))


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """Whether a configuration ties the head to the embedding; None where it doesn't say, or says
    both, as those of some vision-language models do."""
    said = {
        value
        for key, value in settings_in(config, leave_out=_NOT_TEXT)
        if key == "tie_word_embeddings" and isinstance(value, bool)
    }
    return said.pop() if len(said) == 1 else None


def is_kept(checkpoint: Checkpoint, key: str) -> bool:
    """Whether a tensor is a buffer that is computed anew, or a counter."""
    shape = checkpoint.shape(key)
    *modules, name = key.split(".")
    rotary = any(word.startswith("rotary_") and "emb" in word for word in modules)
    mask = len(shape) == 4 and shape[:2] == (1, 1) and name == "bias"  # GPT-2's causal mask
    counter = not checkpoint.dtype(key).is_floating_point and math.prod(shape) == 1
    return rotary or mask or counter or name in _RECOMPUTED


def parts_of(some: Sequence[str], others: Collection[str]) -> Iterator[str]:
    """The shortest beginnings of names that only `some` have, with how many have them."""
    taken = {beginning for name in others for beginning in _beginnings(name)}
    parts = Counter(next(b for b in _beginnings(name) if b not in taken) for name in some)
    for part, count in parts.items():
        yield part if part in some else f"{part}.* ({count})"


def _beginnings(name: str) -> Iterator[str]:
    words = name.split(".")
    yield from (".".join(words[:count]) for count in range(1, min(len(words), _WORDS)))
    yield name


def shape_text(checkpoint: Checkpoint, key: str) -> str:
    return "×".join(map(str, checkpoint.shape(key))) or "scalar"


def advice(found: Sequence[Difference]) -> str:
    """What to do about differences."""
    cells = [(d.in_base, d.in_expert) for d in found]
    if any(_PART in pair for pair in cells):
        return (
            "Factors of a LoRA adapter lie among a model's own weights, and merging them one by one"
            " isn't merging their products: merge the adapter into the weights (PEFT's"
            " merge_and_unload) and give the result, or give the adapter's own folder. Where the"
            " base has such factors too, its experts must have left them as they are."
        )
    if any(_TIED in pair for pair in cells):
        return (
            "A matrix, such as a head tied to the embedding, is one in one of the two and has"
            " weights of its own under each name in the other: train with a tied head, and without"
            " an adapter on the head or the embedding alone; or save the tied model with a head of"
            " its own. If the base's equal matrices are meant to be apart, set tie_word_embeddings"
            " in its config.json to false."
        )
    if any(in_base == SEVERAL for in_base, _ in cells):
        return (
            "What several experts have and the base lacks has no one owner to be copied from: give"
            " a base that has it too, so that it is merged, or remove it from all experts but one."
        )
    if all(in_expert == MISSING for _, in_expert in cells):
        return (
            "To merge an expert that covers a part of the base, and carry the rest over from the"
            " base, set partial_experts: true; otherwise give complete experts."
        )
    if all(in_base == MISSING for in_base, _ in cells):
        return "Give a base that has them too, or remove them from the experts."
    return "Give experts that were trained from this base."


def counted(found: Sequence[Difference]) -> str:
    """How many don't …"""
    return "1 tensor doesn't" if len(found) == 1 else f"{len(found)} tensors don't"


def _table(found: Sequence[Difference]) -> str:
    head = Difference("expert", "tensor", "in the base", "in the expert")
    rows = [(d.expert, d.key, d.in_base, d.in_expert) for d in (head, *found)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return f"{counted(found)} fit the base; nothing was merged. {advice(found)}\n" + "\n".join(
        line.rstrip() for line in lines
    )
