"""Matching an expert's tensors with the base's."""

import pytest
import torch

from amm.checkpoints.keys import align, row_blocks
from amm.errors import InputError


class Memory:
    """A checkpoint in memory."""

    def __init__(self, path, weights):
        self.path, self.weights = path, weights

    def keys(self):
        return sorted(self.weights)

    def shape(self, key):
        return tuple(self.weights[key].shape)

    def dtype(self, key):
        return self.weights[key].dtype

    def read(self, key, rows=None):
        return self.weights[key] if rows is None else self.weights[key][rows]


EMBEDDING = torch.arange(8.0).view(4, 2)
BASE = {
    "model.embed_tokens.weight": EMBEDDING,
    "model.layers.0.mlp.up_proj.weight": torch.ones(3, 2),
    "visual.blocks.0.attn.qkv.weight": torch.ones(6, 2),
}


def newer(key):
    if key.startswith("visual."):
        return "model." + key
    return key.replace("model.", "model.language_model.", 1) if key != "lm_head.weight" else key


def test_same_names():
    assert align(Memory("base", BASE), [Memory("e", BASE)]) == [{key: key for key in BASE}]


def test_both_generations_of_names_match_and_the_bases_are_kept():
    renamed = {newer(key): value for key, value in BASE.items()}
    (names,) = align(Memory("base", BASE), [Memory("e", renamed)])
    assert names == {key: newer(key) for key in BASE}
    (names,) = align(Memory("base", renamed), [Memory("e", BASE)])
    assert names == {newer(key): key for key in BASE}


def test_all_differences_of_all_experts_are_in_one_table():
    one = {**BASE, "model.layers.0.mlp.up_proj.weight": torch.ones(3, 5)}
    two = {k: v for k, v in BASE.items() if not k.startswith("visual")} | {"extra": torch.ones(9)}
    with pytest.raises(InputError) as error:
        align(Memory("base", BASE), [Memory("one", one), Memory("two", two)])
    lines = [line.split() for line in str(error.value).splitlines()]
    assert lines[0][:3] == ["3", "tensors", "don't"]
    assert lines[2:] == [
        ["one", "model.layers.0.mlp.up_proj.weight", "3×2", "3×5"],
        ["two", "visual.blocks.0.attn.qkv.weight", "6×2", "missing"],
        ["two", "extra", "missing", "9"],
    ]


def test_two_names_of_one_tensor_are_refused():
    both = {**BASE, "model.visual.blocks.0.attn.qkv.weight": torch.ones(6, 2)}
    with pytest.raises(InputError, match="two names of one tensor"):
        align(Memory("base", BASE), [Memory("e", both)])


@pytest.mark.parametrize("rename", [newer, lambda key: key])
def test_head_of_an_expert_is_dropped_where_the_base_ties_it(rename):
    expert = {rename(key): value for key, value in {**BASE, "lm_head.weight": EMBEDDING}.items()}
    (names,) = align(Memory("base", BASE), [Memory("e", expert)])
    assert "lm_head.weight" not in names.values() and len(names) == len(BASE)


def test_head_that_differs_from_the_tied_embedding_is_refused():
    expert = {**BASE, "lm_head.weight": EMBEDDING + 1}
    with pytest.raises(InputError, match="e: lm_head.weight differs from model.embed_tokens"):
        align(Memory("base", BASE), [Memory("e", expert)])


def test_head_of_its_own_is_merged_like_any_tensor():
    untied = {**BASE, "lm_head.weight": EMBEDDING + 1}
    (names,) = align(Memory("base", untied), [Memory("e", untied)])
    assert names["lm_head.weight"] == "lm_head.weight"


def test_integer_tensors_must_have_the_bases_dtype():
    base, expert = {"ids": torch.arange(3)}, {"ids": torch.ones(3)}
    with pytest.raises(InputError, match=r"ids +torch.int64 +torch.float32"):
        align(Memory("base", base), [Memory("e", expert)])


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (7, 3), (2, 3, 4)])
@pytest.mark.parametrize("entries", [1, 4, 100])
def test_row_blocks_cover_a_tensor_once(shape, entries):
    tensor = torch.arange(float(torch.Size(shape).numel())).view(shape)
    blocks = row_blocks(shape, entries)
    parts = [tensor if rows is None else tensor[rows] for rows in blocks]
    assert torch.equal(torch.cat([part.flatten() for part in parts]), tensor.flatten())
    row = tensor[:1].numel() if shape else 1
    assert all(part.numel() <= max(entries, row) for part in parts)
