"""Inner products of the inputs, and how tensors are grouped."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pico_models import load_folder, save_folder

from amm import survey as survey_module
from amm.checkpoints import open_checkpoint
from amm.checkpoints.keys import match, sampled_rows
from amm.survey import group_of, kind_of, layer_of, products, survey, total


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_products_are_those_of_plain_numpy():
    base, experts = draw(6, 5), [draw(6, 5, seed=s) for s in (1, 2)]
    found = products(base, experts)
    origin = base.double().numpy()
    taus = [e.double().numpy() - origin for e in experts]
    assert found.base == pytest.approx((origin**2).sum())
    for i, tau in enumerate(taus):
        assert found.relative_norms[i] == pytest.approx(
            np.linalg.norm(tau) / np.linalg.norm(origin), rel=1e-6
        )
        whole = origin + tau
        cosine = (whole * origin).sum() / np.linalg.norm(whole) / np.linalg.norm(origin)
        assert found.base_cosines[i] == pytest.approx(cosine, rel=1e-6)
    both = (taus[0] * taus[1]).sum() / np.linalg.norm(taus[0]) / np.linalg.norm(taus[1])
    assert found.cosines[0, 1] == pytest.approx(both, rel=1e-6)
    apart = ((experts[0] - experts[1]).double() ** 2).sum()
    assert found.distances[1, 2] == pytest.approx(float(apart), rel=1e-6)
    assert found.distances[0, 1] == pytest.approx((taus[0] ** 2).sum(), rel=1e-6)


def test_unchanged_entries_are_counted_before_and_after_bf16():
    base = torch.ones(10)
    expert = base.clone()
    expert[0], expert[1] = 1.5, 1 + 1e-6
    found = products(base, [expert])
    assert (int(found.unchanged[0]), int(found.unchanged_bf16[0])) == (8, 9)


def test_zero_tensors_give_no_nan():
    found = products(torch.zeros(4), [torch.zeros(4), torch.ones(4)])
    assert found.relative_norms.tolist() == [0.0, float("inf")]
    assert found.base_cosines.tolist() == [1.0, 1.0]
    assert found.cosines.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_parts_add_up_to_the_whole():
    base, experts = draw(12, 3), [draw(12, 3, seed=1)]
    whole = products(base, experts)
    parts = total(products(base[i : i + 4], [experts[0][i : i + 4]]) for i in (0, 4, 8))
    assert parts.read == whole.read and parts.base == pytest.approx(whole.base)
    torch.testing.assert_close(parts.gram, whole.gram)


def test_nan_is_not_finite():
    assert not products(torch.ones(2), [torch.tensor([1.0, float("nan")])]).finite
    assert not products(torch.tensor([float("inf"), 1.0]), [torch.ones(2)]).finite


@given(st.lists(st.integers(1, 200), min_size=1, max_size=3), st.integers(4, 5000))
def test_a_sample_reads_distinct_rows_within_its_budget(shape, entries):
    rows = sampled_rows(shape, entries)
    if rows == [None]:
        assert np.prod(shape) <= entries
        return
    seen = [i for piece in rows for i in range(piece.start, piece.stop)]
    assert min(seen) == 0 and max(seen) == shape[0] - 1
    width = int(np.prod(shape[1:]))
    assert len(seen) * width <= max(entries, 4 * width)


def test_deep_survey_reads_all_entries_of_what_can_be_merged(pico):
    base, experts = map(open_checkpoint, (pico[0], pico[1][0]))
    found = list(survey(base, [experts], match(base, [experts]).names, deep=True))
    weights = load_folder(pico[0])
    assert {t.name: t.products.read for t in found} == {k: v.numel() for k, v in weights.items()}


@pytest.mark.parametrize(
    ("name", "group", "kind", "layer"),
    [
        ("model.layers.12.mlp.up_proj.weight", "language", "model.layers.*.mlp.up_proj.weight", 12),
        ("visual.blocks.3.attn.qkv.weight", "vision", "visual.blocks.*.attn.qkv.weight", 3),
        ("model.visual.merger.mlp.0.weight", "merger", "model.visual.merger.mlp.*.weight", 0),
        (
            "multi_modal_projector.linear_1.bias",
            "merger",
            "multi_modal_projector.linear_1.bias",
            None,
        ),
        ("vision_tower.encoder.layers.1.fc1.weight", "vision", None, 1),
        ("model.language_model.embed_tokens.weight", "embedding", None, None),
        ("lm_head.weight", "head", "lm_head.weight", None),
    ],
)
def test_names_are_grouped(name, group, kind, layer):
    assert group_of(name) == group
    assert kind is None or kind_of(name) == kind
    assert layer_of(name) == layer


@pytest.mark.parametrize("deep", [False, True])
def test_a_row_of_any_length_is_measured_in_pieces(tmp_path, monkeypatch, deep):
    monkeypatch.setattr(survey_module, "SAMPLE_ENTRIES", 40)
    monkeypatch.setattr(survey_module, "READ_ENTRIES", 16)
    seen = []
    measure = survey_module.products
    monkeypatch.setattr(
        survey_module,
        "products",
        lambda *models: seen.append(models[0].numel()) or measure(*models),
    )
    shape = (3, 100)
    models = [{"a.weight": draw(*shape, seed=seed)} for seed in (0, 1)]
    opened = [
        open_checkpoint(save_folder(tmp_path / str(i), weights)) for i, weights in enumerate(models)
    ]
    (found,) = survey(opened[0], opened[1:], match(opened[0], opened[1:]).names, deep=deep)
    assert max(seen) == 16 and found.products.read == (300 if deep else 40)
    if deep:
        whole = measure(models[0]["a.weight"], [models[1]["a.weight"]])
        torch.testing.assert_close(found.products.gram, whole.gram)
