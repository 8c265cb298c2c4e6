"""Which tensors count as weights of linear layers."""

import pytest

from amm.layers import is_linear


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
    ],
)
def test_everything_else(name, shape):
    assert not is_linear(name, shape)
