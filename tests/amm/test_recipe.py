"""What a recipe can say of single experts and tensors: weights, own bases, parts, overrides."""

import json

import pytest
import torch
import yaml
from method_cases import close, in_blocks
from pico_models import load_folder, pico_weights, save_folder

import amm
from amm.engines import job
from amm.layers import is_linear
from amm.methods import get_method, method_names


def vectors_of(base, experts, weights=None):
    """Weighted task vectors of pico models in memory, by name."""
    origin, trained = load_folder(base), list(map(load_folder, experts))
    weights = weights or [1.0] * len(experts)
    return {
        key: torch.stack(
            [w * (e[key].float() - stored.float()) for w, e in zip(weights, trained, strict=True)]
        )
        for key, stored in origin.items()
    }


def merged_by(name, method, vectors, base, **parameters):
    settings = get_method(method).settings(**parameters)
    if get_method(method).tensors == "linear" and not is_linear(name, vectors.shape[1:]):
        if settings.other_tensors == "base":
            return torch.zeros_like(vectors[0])
        method, settings = "mean", get_method("mean").settings()
    return in_blocks(method, vectors, settings, vectors.shape[1], name, base[name])


def check(output, base, expected):
    """The output is the base with the given task vectors, rounded once."""
    origin, merged = load_folder(base), load_folder(output)
    for key, tau in expected.items():
        assert torch.equal(merged[key], (origin[key].float() + tau).to(origin[key].dtype)), key


@pytest.mark.parametrize(
    "method", [name for name in method_names() if name != "emr" and not get_method(name).table]
)
def test_a_weight_is_a_factor_on_an_experts_task_vector(pico, tmp_path, monkeypatch, method):
    base, (one, other) = pico
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 64)
    parameters = {"steps": 10} if method in ("amm", "wudi") else {}
    experts = [{"path": one, "weight": 0.5}, {"path": other, "weight": -2}]
    amm.merge(base, experts, output=tmp_path / "out", method=method, parameters=parameters)
    vectors, origin = vectors_of(base, [one, other], [0.5, -2]), load_folder(base)
    check(
        tmp_path / "out",
        base,
        {key: merged_by(key, method, v, origin, **parameters) for key, v in vectors.items()},
    )


def test_an_expert_of_weight_one_is_one_whose_path_alone_is_given(pico, tmp_path):
    base, experts = pico
    amm.merge(base, experts, output=tmp_path / "plain", method="ties")
    said = [{"path": path, "weight": 1} for path in experts]
    amm.merge(base, said, output=tmp_path / "said", method="ties")
    plain, weighted = load_folder(tmp_path / "plain"), load_folder(tmp_path / "said")
    assert all(torch.equal(plain[key], weighted[key]) for key in plain)


def test_an_experts_own_base_is_what_its_task_vector_is_counted_from(pico, tmp_path):
    base, (one, other) = pico
    own = {key: value + 0.3 for key, value in pico_weights(9).items()}
    learnt = {
        key: value.float() - load_folder(base)[key] for key, value in load_folder(one).items()
    }
    save_folder(tmp_path / "own", own)
    save_folder(tmp_path / "tuned", {key: own[key] + learnt[key] for key in own})
    experts = [{"path": tmp_path / "tuned", "base": tmp_path / "own"}, other]
    amm.merge(
        base, experts, output=tmp_path / "out", method="task_arithmetic", save_dtype="float32"
    )
    amm.merge(
        base, [one, other], output=tmp_path / "same", method="task_arithmetic", save_dtype="float32"
    )
    merged, expected = load_folder(tmp_path / "out"), load_folder(tmp_path / "same")
    for key in expected:
        close(merged[key], expected[key], 1e-6)
    inputs = json.loads((tmp_path / "out" / "provenance.json").read_text())["inputs"]
    assert any(str(tmp_path / "own") in json.dumps(each) for each in inputs)


def test_an_own_base_of_other_shapes_is_refused(pico, tmp_path):
    base, (one, _) = pico
    own = pico_weights(9) | {"model.norm.weight": torch.ones(8)}
    save_folder(tmp_path / "own", own)
    with pytest.raises(amm.InputError, match=r"own.*model.norm.weight +16 +8"):
        amm.merge(base, [{"path": one, "base": tmp_path / "own"}], output=tmp_path / "out")


def test_an_expert_that_covers_a_part_is_asked_for_by_itself(pico, tmp_path):
    base, (one, other) = pico
    part = {key: value for key, value in load_folder(one).items() if "visual" not in key}
    save_folder(tmp_path / "part", part)
    amm.merge(
        base,
        [{"path": tmp_path / "part", "partial": True}, other],
        output=tmp_path / "out",
        method="mean",
    )
    vectors = vectors_of(base, [one, other])
    vectors["visual.patch_embed.proj.weight"][0] = 0
    check(tmp_path / "out", base, {key: v.sum(0) / 2 for key, v in vectors.items()})
    with pytest.raises(amm.InputError, match="partial"):
        amm.merge(base, [tmp_path / "part", other], output=tmp_path / "not", method="mean")


OVERRIDES = """
base: {base}
experts: [{one}, {other}]
output: {out}
method: ties
parameters: {{density: 0.5}}
overrides:
  - names: "*embed*"
    method: base
  - layers: 0
    names: ["*q_proj*", "*up_proj*"]
    parameters: {{density: 0.1}}
    weights: [1, 0]
  - layers: 0-3
    method: task_arithmetic
    parameters: {{scale: 0.25}}
"""


@pytest.fixture
def recipe(pico, tmp_path):
    base, (one, other) = pico
    file = tmp_path / "merge.yaml"
    file.write_text(OVERRIDES.format(base=base, one=one, other=other, out=tmp_path / "out"))
    return file


def test_the_first_override_that_fits_a_tensor_counts(pico, tmp_path, recipe, monkeypatch):
    base, experts = pico
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 64)
    amm.merge(**yaml.safe_load(recipe.read_text()))
    expected, origin = {}, load_folder(base)
    for key, vectors in vectors_of(base, experts).items():
        if "embed_tokens" in key or "patch_embed" in key:
            expected[key] = torch.zeros_like(vectors[0])
        elif "q_proj" in key or "up_proj" in key:
            weighted = vectors * torch.tensor([1.0, 0.0]).view(-1, *[1] * (vectors.dim() - 1))
            expected[key] = merged_by(key, "ties", weighted, origin, density=0.1)
        elif "layers.0." in key:
            expected[key] = merged_by(key, "task_arithmetic", vectors, origin, scale=0.25)
        else:
            expected[key] = merged_by(key, "ties", vectors, origin, density=0.5)
    check(tmp_path / "out", base, expected)


def test_plan_and_report_say_what_each_part_gets(recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text())
    rules = {kind.kind: kind.rule for kind in amm.plan(**content).kinds}
    assert rules["model.embed_tokens.weight"] == "base"
    assert rules["model.layers.*.mlp.up_proj.weight"] == "ties, density 0.1, weights 1 · 0"
    assert rules["model.layers.*.mlp.down_proj.weight"] == "task_arithmetic, scale 0.25"
    assert rules["model.norm.weight"] == "ties"
    amm.merge(**content)
    tensors = json.loads((tmp_path / "out" / "provenance.json").read_text())["tensors"]
    assert {t["name"]: t["rule"] for t in tensors}["model.norm.weight"] == "ties"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"names": "*q_porj*", "method": "base"},
            r"overrides.0: .* like '\*q_porj\*'. .*Did you mean 'q_proj'",
        ),
        ({"layers": 7, "method": "base"}, r"overrides.0: no tensor '\*' .*layers are 0 to 0"),
        ({"layers": "3-1"}, "overrides.0.layers can't be '3-1': it must be a layer or a range"),
        ({"method": "tis"}, "Did you mean 'ties'"),
        ({"parameters": {"densty": 1}}, "overrides.0: parameters of method 'ties': unknown key"),
        ({"weights": [1]}, "overrides.0: weights has 1 numbers; give one for each of the 2"),
        ({"method": "emr"}, "overrides.0: method 'emr' leaves a file"),
        ({"name": "x"}, "unknown key 'overrides.0.name'. Did you mean 'names'"),
    ],
)
def test_an_override_that_cannot_be_meant_is_refused(pico, tmp_path, override, message):
    base, experts = pico
    with pytest.raises(amm.InputError, match=message):
        amm.merge(base, experts, output=tmp_path / "out", method="ties", overrides=[override])


def test_a_merge_is_not_resumed_under_other_weights(pico, tmp_path):
    from amm.engines.job import Job
    from amm.run import _identity

    base, experts = pico
    values = {"base": base, "output": tmp_path / "out", "method": "mean"}
    identities = [
        _identity(Job(amm.MergeConfig(experts=given, **values)))
        for given in (experts, [{"path": experts[0], "weight": 0.5}, experts[1]])
    ]
    assert identities[0] != identities[1]
