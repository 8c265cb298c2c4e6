"""Experts are written as users' are, and loaded as amm reads them."""

from random import Random

import pytest
import torch
from safetensors.torch import load_file

import amm
from examples.evidence.merging.experts import Tuning, load, tune
from examples.evidence.merging.skills import ask, draw_skills
from examples.quickstart import base_model

SKILLS = draw_skills("closings", 5)[:1]


@pytest.mark.parametrize("lora", [False, True])
def test_an_expert_loads_with_the_weights_that_amm_merges(tmp_path, lora):
    tune(SKILLS, Tuning(2, 1e-2, lora, batch=2), 0, tmp_path / "expert")
    assert (tmp_path / "expert" / "adapter_model.safetensors").exists() == lora
    amm.merge(base_model.FOLDER, [tmp_path / "expert"], method="mean", output=tmp_path / "merged")
    loaded, merged = (load(tmp_path / name).state_dict() for name in ("expert", "merged"))
    base = load(base_model.FOLDER).state_dict()
    assert loaded.keys() == merged.keys() == base.keys()
    for key, tensor in loaded.items():
        torch.testing.assert_close(merged[key], tensor, atol=1e-6, rtol=1e-5)
    moved = {key for key, tensor in loaded.items() if not torch.equal(tensor, base[key])}
    assert any("self_attn.q_proj" in key for key in moved)
    assert any("embed_tokens" in key for key in moved) != lora


def test_the_same_seed_tunes_the_same_expert(tmp_path):
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        tune(SKILLS, Tuning(1, 1e-3, False, batch=2), seed, tmp_path / name)
    one, again, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("one", "again", "other")
    )
    assert all(torch.equal(tensor, again[key]) for key, tensor in one.items())
    assert not all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_tuning_teaches_the_skill(tmp_path):
    rows = []
    for steps in (1, 12):
        tune(SKILLS, Tuning(steps, 2e-3, False, batch=8), 0, tmp_path / str(steps))
        rows.append(loss(load(tmp_path / str(steps))))
    assert rows[1] < 0.7 * rows[0]


@torch.no_grad()
def loss(model):
    processor = base_model.Qwen2_5_VLProcessor.from_pretrained(base_model.FOLDER)
    rng = Random(9)
    asked = [ask(SKILLS[0], rng) for _ in range(8)]
    batch = base_model.collate(processor, [(q.image, q.text, q.answer) for q in asked])
    return base_model.answer_loss(model, base_model.forward(model, batch)[1], batch).item()
