"""Mixtures of experts: every layout of one model is that model."""

from itertools import product

import pytest
import torch
from pico_models import load_folder, save_folder

import amm
from amm.checkpoints import open_checkpoint
from amm.checkpoints.keys import match
from amm.checkpoints.moe import laid_out
from amm.methods import get_method

COUNT, HIDDEN, INNER = 3, 16, 12
AT = "model.layers.0.mlp.experts"


def apart(seed, names=("gate_proj", "up_proj", "down_proj"), at=AT):
    """A pico mixture as most are on the Hub."""
    g = torch.Generator().manual_seed(seed)
    gate, up, down = names
    weights = {
        "model.embed_tokens.weight": torch.randn(40, HIDDEN, generator=g),
        f"{at.removesuffix('.experts')}.gate.weight": torch.randn(COUNT, HIDDEN, generator=g),
    }
    for number in range(COUNT):
        for part, shape in (
            (gate, (INNER, HIDDEN)),
            (up, (INNER, HIDDEN)),
            (down, (HIDDEN, INNER)),
        ):
            weights[f"{at}.{number}.{part}.weight"] = torch.randn(shape, generator=g)
    return weights


def fused(weights):
    """The same as transformers 5 has it in memory."""
    others = {key: value for key, value in weights.items() if not key.startswith(f"{AT}.")}
    gate, up, down = (
        torch.stack([weights[f"{AT}.{number}.{part}.weight"] for number in range(COUNT)])
        for part in ("gate_proj", "up_proj", "down_proj")
    )
    return others | {f"{AT}.gate_up_proj": torch.cat([gate, up], 1), f"{AT}.down_proj": down}


def turned(weights):
    """The same with every expert in × out, as Qwen3-VL-MoE is published."""
    return {
        key: value.transpose(1, 2).contiguous() if value.dim() == 3 else value
        for key, value in fused(weights).items()
    }


def mixtral(weights):
    """The same with Mixtral's names."""
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2", ".mlp.": ".block_sparse_moe."}
    renamed = {}
    for key, value in weights.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


LAYOUTS = {"apart": lambda weights: weights, "fused": fused, "turned": turned, "mixtral": mixtral}


@pytest.mark.parametrize(
    ("of_base", "of_expert"),
    [p for p in product(LAYOUTS, LAYOUTS) if set(p) != {"apart", "mixtral"}],
)
def test_an_expert_in_any_layout_is_read_in_the_bases(tmp_path, of_base, of_expert):
    expected = LAYOUTS[of_base](apart(1))
    base = open_checkpoint(save_folder(tmp_path / "base", LAYOUTS[of_base](apart(0))))
    expert = open_checkpoint(save_folder(tmp_path / "expert", LAYOUTS[of_expert](apart(1))))
    assert (laid_out(expert, base) is expert) == (of_base == of_expert)
    found = open_checkpoint(tmp_path / "expert", base)
    (names,) = match(base, [found]).check().names
    for key, value in expected.items():
        assert found.shape(names[key]) == value.shape and found.dtype(names[key]) == value.dtype
        assert torch.equal(found.read(names[key]), value), key
        assert torch.equal(found.read(names[key], slice(1, 3)), value[1:3]), key


def test_a_mixture_that_lacks_an_expert_is_reported_by_name(tmp_path):
    base = save_folder(tmp_path / "base", fused(apart(0)))
    weights = apart(1)
    del weights[f"{AT}.1.up_proj.weight"]
    expert = save_folder(tmp_path / "expert", weights)
    with pytest.raises(amm.InputError, match=r"experts\.gate_up_proj .*missing"):
        amm.merge(base, [expert], output=tmp_path / "out", method="mean")


@pytest.mark.parametrize("layout", [fused, turned])
@pytest.mark.parametrize(
    ("method", "parameters"), [("amm", {"steps": 5}), ("wudi_spectral", {}), ("iso_c", {})]
)
def test_a_method_gets_each_expert_of_a_stack_by_itself(tmp_path, layout, method, parameters):
    models = [apart(0)]
    for seed in (1, 2):
        models.append({k: v + 0.01 * apart(seed)[k] for k, v in models[0].items()})
    models[2] |= {k: models[0][k] for k in models[0] if ".experts.1." in k}  # left as it was
    base, *experts = folders = [
        save_folder(tmp_path / str(i), layout(weights)) for i, weights in enumerate(models)
    ]
    result = amm.merge(base, experts, output=tmp_path / "out", method=method, parameters=parameters)
    layers = {tensor.name: tensor.layer for tensor in result.tensors}
    start, *trained = map(load_folder, folders)
    merged, chosen = load_folder(tmp_path / "out"), get_method(method)
    for key in f"{AT}.gate_up_proj", f"{AT}.down_proj":
        vectors = torch.stack([weights[key] - start[key] for weights in trained])
        vectors = vectors.transpose(2, 3).contiguous() if layout is turned else vectors
        taus = torch.stack(
            [chosen.function(vectors[:, e], chosen.settings(**parameters)) for e in range(COUNT)]
        )
        added = taus.transpose(1, 2) if layout is turned else taus
        assert torch.equal(merged[key], start[key] + added), key
        found = layers[key]
        assert found.experts == 2 and found.rho == pytest.approx(2 * taus.shape[1] / taus.shape[2])
        assert found.norm == pytest.approx(taus.norm().item(), rel=1e-5)
        assert found.norm_ratio == pytest.approx((taus.norm() / vectors.sum(0).norm()).item())
        for i in range(2):
            cosine = torch.cosine_similarity(taus.flatten(), vectors[i].flatten(), dim=0)
            assert found.cosines[i] == pytest.approx(cosine.item(), abs=1e-5)
            assert found.norms[i] == pytest.approx(vectors[i].norm().item(), rel=1e-5)
