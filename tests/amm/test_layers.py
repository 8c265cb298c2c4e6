"""Which tensors count as weights of linear layers."""

import pytest

from amm.layers import is_linear, layout


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "model.language_model.layers.3.mlp.down_proj.weight",
        "visual.blocks.0.attn.qkv.weight",
        "visual.merger.mlp.0.weight",
    ],
)
def test_linear_weights(name):
    assert is_linear(name, (4, 6))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (40, 16)),
        ("lm_head.weight", (40, 16)),
        ("visual.pos_embed.weight", (10, 16)),
        ("visual.patch_embed.proj.weight", (16, 3, 2, 4, 4)),
        ("visual.patch_embed.proj.weight", (16, 96)),
        ("model.layers.0.input_layernorm.weight", (16,)),
        ("model.layers.0.self_attn.q_proj.bias", (16,)),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 16, 8)),
        ("talker.codec_head.weight", (40, 16)),
        ("score.weight", (2, 16)),
        ("thinker.audio_tower.audio_bos_eos_token.weight", (2, 16)),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 4)),
    ],
)
def test_everything_else(name, shape):
    assert not is_linear(name, shape)


BLOCK = {
    "model.layers.0.mlp.output.weight": (40, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "projector.weight": (16, 24),
}
"""Linear layers, one of them with the shape of the vocabulary."""


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (["shared", "lm_head"], {}),  # BART, T5, Florence-2
        (["model.tok_embeddings", "output"], {}),  # InternLM2
        (["model.decoder.embed_tokens", "proj_out"], {}),  # Whisper
        (["gpt_neox.embed_in", "embed_out"], {}),
        (["bert.embeddings.word_embeddings", "cls.predictions.decoder"], {}),
        (["output"], {"text_config": {"vocab_size": 40}}),
    ],
)
def test_a_vocabulary_is_told_by_names_shapes_and_sizes(names, config):
    shapes = dict.fromkeys((f"{name}.weight" for name in names), (40, 16)) | BLOCK
    found = layout(shapes, config)
    assert found.vocabulary == shapes.keys() - BLOCK.keys()
    assert found.matrices == BLOCK and not found.transposed


def test_positions_are_no_vocabulary():
    names = ("model.embed_positions.weight", "image_position_embed.row_embeddings.weight")
    found = layout(dict.fromkeys(names, (40, 16)), {})
    assert not found.vocabulary and not found.matrices


def test_a_size_that_others_share_does_not_tell_a_vocabulary():
    shapes = {"projector.weight": (40, 16), "model.layers.0.up_proj.weight": (40, 16)}
    assert layout(shapes, {"vocab_size": 40, "hidden_size": 40}).matrices == shapes
    assert "projector.weight" in layout(shapes, {"vocab_size": 40}).vocabulary


GPT2 = {
    "wpe.weight": (8, 4),
    "h.0.attn.c_attn.weight": (4, 12),
    "h.0.attn.c_proj.weight": (4, 4),
    "h.0.mlp.c_fc.weight": (4, 16),
}
CONV1D_BIASES = {"h.0.attn.c_attn.bias": (12,), "h.0.attn.c_proj.bias": (4,)}
LINEAR = {"visual.0.fc1.weight": (16, 4), "visual.0.fc1.bias": (16,), "visual.0.q.weight": (4, 4)}


@pytest.mark.parametrize("biases", [CONV1D_BIASES, {}])
def test_a_bias_or_the_fused_attention_tells_in_by_out_and_square_ones_follow(biases):
    found = layout(GPT2 | biases | LINEAR, {})
    linear = GPT2.keys() - {"wpe.weight"}
    assert found.transposed == linear
    assert found.matrices == {n: GPT2[n][::-1] for n in linear} | {
        "visual.0.fc1.weight": (16, 4),
        "visual.0.q.weight": (4, 4),
    }


def test_linear_layers_of_the_same_names_are_out_by_in():
    turned = {name: shape[::-1] for name, shape in GPT2.items()} | CONV1D_BIASES
    assert not layout(turned, {"model_type": "gpt2"}).transposed


@pytest.mark.parametrize(
    ("up", "down", "hidden", "turned"),
    [
        ((12, 16), (16, 6), 16, False),  # gate and up in one: what both have in common tells
        ((16, 12), (6, 16), 16, True),
        ((16, 16), (16, 8), 16, False),  # square ones too
        ((16, 16), (8, 16), 16, True),
        ((6, 16), (16, 6), 16, False),  # without a gate the width of the embedding tells
        ((16, 6), (6, 16), 16, True),
    ],
)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        ("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
    ],
)
def test_stacks_of_a_mixture_are_matrices_that_go_up_and_back(
    first, second, up, down, hidden, turned
):
    shapes = {"embed_tokens.weight": (40, hidden), first: (4, *up), second: (4, *down)}
    found = layout(shapes | {"mlp.experts.gate_up_proj_bias": (4, up[0])}, {})
    assert found.transposed == ({first, second} if turned else set())
    assert found.matrices == {
        first: up[::-1] if turned else up,
        second: down[::-1] if turned else down,
    }
