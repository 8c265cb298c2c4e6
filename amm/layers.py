"""Which tensors are weights of linear layers, and which belong to a vocabulary.

Told from names and shapes, and from the sizes in config.json, so that it holds for models that no
table knows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HEADS = ("classifier", "embed_out", "output_projection")
_SECOND = ("down", "output", "w2", "fc2")
_NUMBERED = re.compile(r"\.\d+\.")
_SIZE_KEY = re.compile(r"(size|dim|model|embd|width|inner)$")


@dataclass(frozen=True)
class Layout:
    """What a model's tensors are.

    Attributes:
        matrices: weight of a linear layer → its (out, in); of a 3-D stack, in which a mixture keeps
            its experts, that of each of them.
        transposed: those of them that are stored in × out, as by GPT-2's Conv1D and Llama 4.
        embeddings: the vocabulary's embeddings.
        vocabulary: everything that has a row for each word: embeddings, heads and heads' biases.
    """

    matrices: dict[str, tuple[int, int]]
    transposed: frozenset[str]
    embeddings: frozenset[str]
    vocabulary: frozenset[str]


def is_linear(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is, by its name, the weight of a linear layer.

    Embeddings and heads are 2-D too, but their Gram matrices are as wide as the vocabulary (the
    plain form needs 258 GiB for Qwen's embedding [D]), and WUDI leaves them out [V].

    Args:
        name: the tensor's key in the checkpoint.
        shape: its shape.
    """
    words = name.split(".")
    return (
        len(shape) == 2
        and 0 not in shape
        and words[-1] == "weight"
        and not any("embed" in word or "norm" in word for word in words)
        and not {"lm_head", "wpe", "codebook"}.intersection(words)
        # T5's relative_attention_bias, Omni's audio_bos_eos_token
        and not _module(name).endswith(("bias", "token"))
        and not _is_embedding(name)
        and not _is_head(name)
    )


def layout(shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> Layout:
    """Tell a model's tensors apart.

    A matrix outside the numbered layers belongs to a vocabulary if it is called so, if it has the
    shape of an embedding that is, or if its rows are a `vocab_size` of the configuration that is no
    other size there.

    A linear layer's bias is as long as its output, which tells out × in from in × out; a matrix
    without one, or a square one, is taken to be like the others of its stack of layers. The experts
    of a mixture go from the hidden size up and back: what its two stacks have in common tells, and
    else the width of the embedding.

    Args:
        shapes: name → shape, of all tensors.
        config: the content of config.json, empty if there is none.
    """
    embeddings = {n for n, s in shapes.items() if len(s) == 2 and _is_embedding(n)}
    tables, sizes = {tuple(shapes[name]) for name in embeddings}, _vocabulary_sizes(config)
    words = sizes | {rows for rows, _ in tables}

    def of_vocabulary(name: str, shape: Sequence[int]) -> bool:
        if len(shape) == 2 and name.endswith(".weight"):
            known = tuple(shape) in tables or shape[0] in sizes
            named = _is_embedding(name) or _is_head(name)
            return named or (known and not _NUMBERED.search(name))
        return len(shape) == 1 and name.endswith(".bias") and shape[0] in words

    vocabulary = {name for name, shape in shapes.items() if of_vocabulary(name, shape)}
    linear = {n: (s[0], s[1]) for n, s in shapes.items() if is_linear(n, s) and n not in vocabulary}
    stacks = {n: s for n, s in shapes.items() if len(s) == 3 and 0 not in s and _is_stack(n)}
    transposed = _transposed(linear, shapes) | _turned_stacks(stacks, {w for _, w in tables})
    linear |= {n: (s[1], s[2]) for n, s in stacks.items()}
    return Layout(
        matrices={n: (s[1], s[0]) if n in transposed else s for n, s in linear.items()},
        transposed=transposed,
        embeddings=frozenset(embeddings),
        vocabulary=frozenset(vocabulary),
    )


def _module(name: str) -> str:
    """The last part of the name of a weight's module that isn't a number."""
    words = [word for word in name.split(".")[:-1] if not word.isdigit()]
    return words[-1] if words else ""


def _is_embedding(name: str) -> bool:
    """Whether a name is that of a vocabulary's embedding, not of one of positions or types."""
    word = _module(name)
    return (
        name.endswith(".weight")
        and ("embed" in word or word in ("wte", "shared"))
        and word not in _HEADS
        and not any(other in word for other in ("type", "patch", "time"))
        and not any(other in name for other in ("pos_", "posit", "pos."))
    )


def _is_head(name: str) -> bool:
    word = _module(name)
    named = word.removesuffix("s").endswith(("head", "score")) or word in _HEADS
    return named and name.endswith(".weight")


def _vocabulary_sizes(config: Mapping[str, Any]) -> set[int]:
    """Numbers of words that no other size in a configuration equals."""
    words: set[int] = set()
    others: set[int] = set()
    for key, value in settings_in(config):
        if type(value) is int and "vocab" in key and "type" not in key:
            words.add(value)
        elif type(value) is int and _SIZE_KEY.search(key):
            others.add(value)
    return words - others


def settings_in(
    config: Mapping[str, Any], leave_out: re.Pattern[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """All keys and values of a configuration and of those within it.

    Args:
        config: the content of config.json.
        leave_out: parts of it whose names have this are passed over.
    """
    parts = [config]
    while parts:
        for key, value in parts.pop().items():
            if not isinstance(value, dict):
                yield key, value
            elif leave_out is None or not leave_out.search(key):
                parts.append(value)


def _transposed(
    linear: Mapping[str, tuple[int, int]], shapes: Mapping[str, Sequence[int]]
) -> frozenset[str]:
    """The matrices that are stored in × out."""
    stacks: dict[str, dict[str, bool | None]] = defaultdict(dict)
    for name, (rows, columns) in linear.items():
        module = name.removesuffix("weight")
        bias = tuple(shapes.get(module + "bias", ()))
        turned = None
        if rows != columns and bias in ((rows,), (columns,)):
            turned = bias == (columns,)
        elif module.endswith("c_attn.") and max(rows, columns) == 3 * min(rows, columns):
            turned = columns > rows  # queries, keys and values in one
        stacks[_NUMBERED.split(name, maxsplit=1)[0]][name] = turned
    found: set[str] = set()
    for stack in stacks.values():
        told = {turned for turned in stack.values() if turned is not None}
        found |= {n for n, turned in stack.items() if turned or (turned is None and told == {True})}
    return frozenset(found)


def _is_stack(name: str) -> bool:
    module, part = _parts(name)
    words = module.split(".")
    return "bias" not in part and any(word.endswith(("experts", "moe")) for word in words)


def _parts(name: str) -> tuple[str, str]:
    """Of `mlp.experts.down_proj`, also with `.weight`: `mlp.experts` and `down_proj`."""
    module, _, part = name.removesuffix(".weight").rpartition(".")
    return module, part


def _turned_stacks(stacks: Mapping[str, Sequence[int]], hidden: set[int]) -> frozenset[str]:
    """The stacks whose matrices are stored in × out.

    Args:
        stacks: name → shape, experts × 2 dimensions.
        hidden: widths of the model's embeddings.
    """
    mixtures: dict[str, dict[str, Sequence[int]]] = defaultdict(dict)
    for name, shape in stacks.items():
        module, part = _parts(name)
        mixtures[module][part] = shape[1:]
    found: set[str] = set()
    for module, parts in mixtures.items():
        seconds = {part for part in parts if any(word in part for word in _SECOND)}
        ups = [shape for part, shape in parts.items() if part not in seconds]
        downs = [parts[part] for part in seconds]
        plain = any(b == c and a % d == 0 for a, b in ups for c, d in downs if d)
        turned = any(a == d and b % c == 0 for a, b in ups for c, d in downs if c)
        if plain == turned:
            plain = any(b in hidden for _, b in ups) or any(c in hidden for c, _ in downs)
            turned = any(a in hidden for a, _ in ups) or any(d in hidden for _, d in downs)
        if turned and not plain:
            found |= {name for name in stacks if _parts(name)[0] == module}
    return frozenset(found)
