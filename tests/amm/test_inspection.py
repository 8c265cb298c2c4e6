"""Figures of task vectors."""

import json

import pytest
import torch
from pico_models import load_folder, save_folder

import amm
from amm.inspection import rank


def test_norms_cosines_and_sparsity_are_those_of_the_weights(pico):
    base, experts = pico
    found = amm.inspect(base, experts)
    weights, others = load_folder(base), list(map(load_folder, experts))
    key = "model.layers.0.mlp.up_proj.weight"
    (layer,) = [figures for figures in found.layers if figures.name == key]
    taus = [other[key] - weights[key].float() for other in others]
    assert layer.norms == pytest.approx(
        [float(t.norm() / weights[key].float().norm()) for t in taus]
    )
    cosine = torch.cosine_similarity(taus[0].flatten(), taus[1].flatten(), dim=0)
    assert layer.cosines[0][1] == pytest.approx(float(cosine), abs=1e-6)
    same = [float((other[key].bfloat16() == weights[key]).float().mean()) for other in others]
    assert layer.unchanged_bf16 == pytest.approx(same)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_ranks_are_those_of_the_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    squares = torch.linalg.svdvals(matrix.double()) ** 2
    found = rank(matrix)
    assert found.stable == pytest.approx(float(squares.sum() / squares[0]), rel=0.02)
    assert found.effective == pytest.approx(
        float(squares.sum() ** 2 / (squares**2).sum()), rel=1e-5
    )


def test_rank_of_a_product_of_vectors_is_one_at_any_scale():
    column, row = torch.randn(7, 1), torch.randn(1, 9)
    for scale in (1.0, 1e-25):
        found = rank(scale * column @ row)
        assert (found.stable, found.effective) == pytest.approx((1.0, 1.0), rel=1e-5)


def test_a_frozen_layer_has_no_rank_and_norm_zero(pico, tmp_path):
    base, experts = pico
    key = "model.layers.0.mlp.up_proj.weight"
    frozen = load_folder(experts[0]) | {key: load_folder(base)[key].float()}
    found = amm.inspect(base, [save_folder(tmp_path / "frozen", frozen), experts[1]])
    (layer,) = [figures for figures in found.layers if figures.name == key]
    assert layer.norms[0] == 0.0 and layer.unchanged[0] == 1.0
    assert layer.ranks[0] is None and layer.ranks[1] is not None


def test_picture_is_a_png_with_the_same_bytes_each_time(pico):
    pytest.importorskip("matplotlib")
    found = amm.inspect(*pico)
    assert found.picture().startswith(b"\x89PNG") and found.picture() == found.picture()


def test_everything_goes_into_json(pico):
    content = json.loads(json.dumps(amm.inspect(*pico).as_dict()))
    assert content["experts"] == ["expert1", "expert2"]


def test_a_base_of_zeros_is_not_infinity_in_json(pico, tmp_path):
    base, experts = pico
    key = "model.layers.0.self_attn.q_proj.bias"
    weights = load_folder(base)
    base = save_folder(tmp_path / "zero", weights | {key: torch.zeros_like(weights[key])})
    found = amm.inspect(base, experts)
    (layer,) = [figures for figures in found.layers if figures.name == key]
    assert layer.norms == [None, None]
    json.dumps(found.as_dict(), allow_nan=False)
