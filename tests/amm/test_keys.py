"""Matching an expert's tensors with the base's."""

import json

import pytest
import torch
from pico_models import run_python

from amm.checkpoints.keys import (
    Difference,
    common_name,
    is_tied,
    match,
    row_blocks,
)
from amm.errors import InputError


class Memory:
    """A checkpoint in memory."""

    def __init__(self, path, weights):
        self.path, self.files_folder, self.weights = path, None, weights

    def keys(self):
        return sorted(self.weights)

    def shape(self, key):
        return tuple(self.weights[key].shape)

    def dtype(self, key):
        return self.weights[key].dtype

    def read(self, key, rows=None):
        return self.weights[key] if rows is None else self.weights[key][rows]


def align(base, experts, **more):
    """The names of a complete match."""
    return match(base, experts, **more).check().names


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
    with pytest.raises(InputError, match="1 tensor doesn't fit the base.* train with a tied") as e:
        align(Memory("base", BASE), [Memory("e", expert)])
    row = "e lm_head.weight the embedding's differs from the embedding"
    assert str(e.value).splitlines()[2].split() == row.split()


def test_head_that_only_the_base_stores_twice_is_the_experts_embedding():
    tied = {**BASE, "lm_head.weight": EMBEDDING}
    (names,) = align(Memory("base", tied), [Memory("e", {newer(k): v for k, v in BASE.items()})])
    assert names["lm_head.weight"] == names["model.embed_tokens.weight"]
    assert names["lm_head.weight"] == "model.language_model.embed_tokens.weight"


def test_head_of_its_own_that_the_expert_lacks_is_refused():
    untied = {**BASE, "lm_head.weight": EMBEDDING + 1}
    with pytest.raises(InputError, match="differs from the embedding  the embedding's"):
        align(Memory("base", untied), [Memory("e", BASE)])


SHARED = ("model.shared.weight", "model.encoder.embed_tokens.weight", "lm_head.weight")
OTHERS = {"model.layers.0.fc1.weight": torch.ones(3, 2)}


def stored(*names, matrix=EMBEDDING):
    return dict.fromkeys(names, matrix) | OTHERS


@pytest.mark.parametrize("names", [SHARED[:1], SHARED[1:2], SHARED[:2], SHARED])
def test_a_matrix_under_several_names_is_one_under_whatever_names_an_expert_has_it(names):
    base, moved = Memory("base", stored(*SHARED)), EMBEDDING + 1
    found = match(base, [Memory("e", stored(*names, matrix=moved))]).check()
    assert found.copies == dict.fromkeys(SHARED[1:], SHARED[0])
    assert {found.names[0][key] for key in SHARED} == set(names)
    (own,) = align(Memory("base", stored(*names)), [Memory("e", stored(*SHARED, matrix=moved))])
    assert set(own) == {*names, *OTHERS}


@pytest.mark.parametrize("name", SHARED)
def test_an_expert_that_unties_a_matrix_is_refused(name):
    expert = stored(*SHARED) | {name: EMBEDDING + 1}
    (one,) = {
        d.in_expert for d in match(Memory("b", stored(*SHARED)), [Memory("e", expert)]).differences
    }
    (two,) = {
        d.in_expert
        for d in match(Memory("b", stored(SHARED[0])), [Memory("e", expert)]).differences
    }
    assert one == two == "differs from the embedding"


def configured(folder, weights, **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = Memory("base", weights)
    checkpoint.files_folder = folder
    return checkpoint


def test_heads_that_the_config_does_not_tie_are_their_own_though_equal(tmp_path):
    base = configured(tmp_path, stored(*SHARED), tie_word_embeddings=False)
    expert = Memory("e", stored(*SHARED) | {"lm_head.weight": EMBEDDING + 1})
    found = match(base, [expert]).check()
    assert found.copies == {SHARED[1]: SHARED[0]}


def test_a_base_whose_config_ties_what_differs_is_refused(tmp_path):
    weights = {**BASE, "lm_head.weight": EMBEDDING + 1}
    base = configured(tmp_path, weights, text_config={"tie_word_embeddings": True})
    with pytest.raises(InputError, match="ties lm_head.weight to model.embed_tokens.weight, and"):
        match(base, [Memory("e", weights)])


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({}, None),
        ({"tie_word_embeddings": True}, True),
        ({"thinker_config": {"text_config": {"tie_word_embeddings": False}}}, False),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, None),
        ({"tie_word_embeddings": False, "vision_config": {"tie_word_embeddings": True}}, False),
    ],
)
def test_a_config_says_whether_the_head_is_tied(config, tied):
    assert is_tied(config) is tied


def test_differences_are_what_the_table_has():
    expert = {**BASE, "extra": torch.ones(9), "model.embed_tokens.weight": torch.ones(5, 2)}
    found = match(Memory("base", BASE), [Memory("e", expert), Memory("f", BASE)])
    assert found.differences == [
        Difference("e", "model.embed_tokens.weight", "4×2", "5×2"),
        Difference("e", "extra", "missing", "9"),
    ]


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_experts_are_refused(dtype):
    expert = {key: value.to(dtype) for key, value in BASE.items()}
    with pytest.raises(InputError, match=f"3 tensors don't fit(.|\n)*torch.float32 +{dtype}"):
        align(Memory("base", BASE), [Memory("e", expert)])


FAMILIES = """
import json, tempfile
from safetensors.torch import load_file
from transformers import (
    LlavaNextConfig, LlavaNextForConditionalGeneration, Qwen2VLConfig,
    Qwen2VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLForConditionalGeneration,
)
small = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1)
text = dict(small, num_attention_heads=2, num_key_value_heads=1, vocab_size=32)
rope = {"rope_type": "default", "mrope_section": [1, 1, 0]}
clip = dict(small, model_type="clip_vision_model", num_attention_heads=2, image_size=8,
            patch_size=4)
visual = dict(depth=1, hidden_size=8, num_heads=2, patch_size=4)
models = {
    "Qwen2-VL": Qwen2VLForConditionalGeneration(Qwen2VLConfig(
        text_config=dict(text, rope_parameters=rope), vision_config=dict(visual, embed_dim=8),
    )),
    "Qwen3-VL": Qwen3VLForConditionalGeneration(Qwen3VLConfig(
        text_config=dict(text, head_dim=4, rope_parameters=rope),
        vision_config=dict(visual, intermediate_size=8, out_hidden_size=8,
                           deepstack_visual_indexes=[0]),
    )),
    "LLaVA-NeXT": LlavaNextForConditionalGeneration(LlavaNextConfig(
        text_config=dict(text, model_type="llama"), vision_config=clip,
    )),
}
pairs = {}
for family, model in models.items():
    for i, parameter in enumerate(model.parameters()):
        parameter.data.fill_(i)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored = load_file(folder + "/model.safetensors")
    stored = {float(v.flatten()[0]): k for k, v in stored.items()}
    in_memory = {float(v.flatten()[0]): k for k, v in model.state_dict().items()}
    pairs[family] = [(in_memory[value], key) for value, key in stored.items()]
print(json.dumps(pairs))
"""
"""The same weights in memory and on disk, told by their values."""


@pytest.mark.slow
def test_names_in_memory_and_on_disk_are_one_in_every_family():
    pytest.importorskip("transformers")
    pairs = json.loads(run_python(FAMILIES).splitlines()[-1])
    renamed = {family: sum(one != other for one, other in p) for family, p in pairs.items()}
    assert renamed["Qwen2-VL"] > 20 and renamed["Qwen3-VL"] == 0 and renamed["LLaVA-NeXT"] > 20
    for family in pairs.values():
        assert all(common_name(one) == common_name(other) for one, other in family)
        assert len({common_name(one) for one, _ in family}) == len(family)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("language_model.model.layers.0.w", "model.language_model.layers.0.w"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("vision_tower.vision_model.encoder.w", "model.vision_tower.encoder.w"),
        ("vision_tower.encoder.w", "model.vision_tower.vision_model.encoder.w"),
        ("language_model.layers.0.w", "model.layers.0.w"),
        ("image_newline", "model.image_newline"),
    ],
)
def test_names_of_older_generations(name, same):
    assert common_name(name) == common_name(same)


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


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda key: f"_orig_mod.{key}", "without the prefix _orig_mod."),
        (lambda key: f"module._orig_mod.{newer(key)}", "without the prefix module."),
        (lambda key: key.replace("layers.0.", "layers.0._fsdp_wrapped_module."), "_fsdp_wrapped"),
        (lambda key: f"policy.net.{key}", "without the prefix policy.net."),
    ],
)
def test_names_within_a_wrapper_match_and_the_note_says_so(rename, said):
    expert = Memory("e", {rename(key): value for key, value in BASE.items()})
    found = match(Memory("base", BASE), [expert, Memory("f", BASE)]).check()
    assert found.names[0] == {key: rename(key) for key in BASE}
    assert said in found.notes[-1] and found.notes[-1].startswith("e: ")


def test_a_beginning_that_the_expert_lacks_is_added():
    base = {f"model.{name}": torch.ones(3, 2) for name in ("layers.0.q.weight", "norm.weight")}
    base["visual.layers.0.q.weight"] = torch.ones(6, 2)
    expert = {key.removeprefix("model."): base[key] for key in base if key.startswith("model.")}
    (names,) = align(Memory("base", base), [Memory("e", expert)], partial=True)
    assert names == {key: key.removeprefix("model.") for key in list(base)[:2]} | {
        "visual.layers.0.q.weight": None
    }
    either = dict.fromkeys(("a.layers.0.q.weight", "b.layers.0.q.weight"), torch.ones(3, 2))
    expert = Memory("e", {"layers.0.q.weight": torch.ones(3, 2)})
    assert len(match(Memory("base", either), [expert]).differences) == 3


BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(4),
    "vision_tower.embeddings.position_ids": torch.arange(10)[None],
    "h.0.attn.bias": torch.ones(1, 1, 4, 4),
    "visual.bn.num_batches_tracked": torch.tensor(7),
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(BUFFERS, {}), ({}, BUFFERS), (BUFFERS, {k: v + 1 for k, v in BUFFERS.items()})],
)
def test_recomputed_buffers_and_counters_are_the_bases(ours, theirs):
    found = match(Memory("base", BASE | ours), [Memory("e", BASE | theirs)]).check()
    assert found.names == [{key: key for key in BASE} | dict.fromkeys(ours)]
    (note,) = found.notes
    assert all(key.rpartition(".")[2] in note for key in BUFFERS)
    assert not match(Memory("base", BASE | ours), [Memory("e", BASE | ours)]).check().notes


def test_what_an_expert_lacks_is_carried_over_on_request_and_listed():
    base = BASE | {f"mtp.layers.{i}.fc.weight": torch.ones(3, 2) for i in range(2)}
    with pytest.raises(InputError, match="2 tensors don't fit.* set partial_experts: true"):
        align(Memory("base", base), [Memory("e", BASE)])
    found = match(Memory("base", base), [Memory("e", BASE)], partial=True).check()
    assert found.names == [{key: key if key in BASE else None for key in base}]
    (note,) = found.notes
    assert note.startswith("e: ") and "2 of 5 tensors" in note and note.endswith(": mtp.* (2).")


def test_an_expert_that_shares_no_tensor_is_not_a_part():
    found = match(Memory("base", BASE), [Memory("e", {"x": torch.ones(2)})], partial=True)
    assert len(found.differences) == len(BASE) + 1


def test_a_head_that_a_part_lacks_is_carried_over_unless_its_config_ties_it(tmp_path):
    base = Memory("base", BASE | {"lm_head.weight": EMBEDDING + 1})
    (names,) = align(base, [Memory("e", BASE)], partial=True)
    assert names["lm_head.weight"] is None
    tied = configured(tmp_path, BASE, tie_word_embeddings=True)
    with pytest.raises(InputError, match="the embedding's"):
        align(base, [tied], partial=True)


def test_factors_of_an_adapter_within_a_model_are_refused_where_they_moved():
    factors = {
        "model.layers.0.q.base_layer.weight": torch.ones(3, 2),
        "model.layers.0.q.lora_A.vision.weight": torch.ones(1, 2),
    }
    moved = factors | {key: value + 1 for key, value in factors.items() if "lora" in key}
    base = Memory("base", BASE | factors)
    align(base, [Memory("e", BASE | factors)])
    for start, expert in ((base, BASE | moved), (Memory("base", BASE), BASE | factors)):
        with pytest.raises(InputError, match="PEFT's merge_and_unload"):
            align(start, [Memory("e", expert)])
