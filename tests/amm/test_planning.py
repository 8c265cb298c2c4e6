"""What `plan` finds before a merge."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pico_models import SHAPES, load_folder, pico_weights, save_folder
from safetensors.torch import load_file, save_file

import amm
from amm.checkpoints import HfCheckpoint
from amm.config import MergeConfig
from amm.methods import get_method
from amm.methods.emr import SIDE_FILE
from amm.planning import PROBE_SIDE, Timer, likely_base

QUICK = {"parameters": {"steps": 2}}


def edit(folder, **changes):
    """Write a folder's weights again, with some replaced, added, or (None) taken away."""
    weights = load_folder(folder) | {k.replace("/", "."): v for k, v in changes.items()}
    kept = {k: v for k, v in weights.items() if v is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_sound_merge_is_ok_and_nothing_is_written(pico, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    found = amm.plan(*pico, output=tmp_path / "out", **QUICK)
    assert found.ok and not found.warnings and not found.differences
    assert sorted(tmp_path.rglob("*")) == before


def test_kinds_say_what_the_merge_then_does(pico, tmp_path):
    found = amm.plan(*pico, output=tmp_path / "out", **QUICK)
    result = amm.merge(*pico, output=tmp_path / "out", **QUICK)
    planned = {kind.kind.replace("*", "0"): kind for kind in found.kinds}
    assert {name: kind.rule for name, kind in planned.items()} == {
        report.name: report.rule for report in result.tensors
    }
    for report in result.tensors:
        if report.layer is not None:
            assert planned[report.name].rho == pytest.approx(report.layer.rho)
    assert found.seconds > 0 and found.memory > 0


@pytest.mark.parametrize("shape", [(2048, 2048), (11008, 2048), (2048, 11008), (20, 3000)])
@pytest.mark.parametrize(("per_entry", "per_operation"), [(3e-9, 2e-12), (0, 1e-12), (1e-9, 0)])
def test_time_is_extrapolated_by_entries_and_operations(shape, per_entry, per_operation):
    def taken(rows, columns):
        entries = rows * columns
        return entries * per_entry + entries * min(columns, 6 * rows) * per_operation

    method, probed = get_method("amm"), []

    class Modelled(Timer):
        gemm_speedup = 1.0

        def probe(self, method, settings, unit):
            probed.append(unit)
            return taken(*unit)

    timer = Modelled(3, MergeConfig(base="b", experts=("e",), output="o"))
    assert timer.seconds(method, method.settings(), shape) == pytest.approx(taken(*shape), rel=0.03)
    assert all(min(unit) <= PROBE_SIDE for unit in probed)


def test_every_difference_is_listed_and_a_problem(pico):
    base, experts = pico
    gate = torch.zeros(2, 2)
    edit(
        experts[1],
        **{"model/norm/weight": torch.ones(17), "model/layers/0/mlp/up_proj/weight": None},
    )
    edit(experts[1], extra=gate)
    found = amm.plan(base, experts)
    assert {(d.key, d.in_base, d.in_expert) for d in found.differences} == {
        ("model.norm.weight", "16", "17"),
        ("model.layers.0.mlp.up_proj.weight", "24×16", "missing"),
        ("extra", "missing", "2×2"),
    }
    assert not found.ok and "3 tensors don't fit" in found.problems[0]
    assert str(experts[1]) in found.problems[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "llama"), ("architectures", ["Other"]), ("vocab_size", 41)],
)
def test_another_architecture_is_a_problem(pico, key, value):
    base, experts = pico
    ours = {"model_type": "qwen2", "architectures": ["Mine"], "vocab_size": 40}
    (base / "config.json").write_text(json.dumps(ours))
    (experts[0] / "config.json").write_text(json.dumps(ours | {key: value}))
    (experts[1] / "config.json").write_text(json.dumps(ours))
    found = amm.plan(base, experts, **QUICK)
    (problem,) = found.problems
    assert key in problem and str(value) in problem and str(experts[0]) in problem


def test_a_part_of_the_base_is_a_problem_that_names_the_setting_and_then_a_warning(pico):
    base, experts = pico
    for folder, kind in zip((base, *experts), ("qwen2_vl", "qwen2_vl", "qwen2"), strict=True):
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    edit(experts[1], **{"visual/patch_embed/proj/weight": None})
    assert "partial_experts: true" in amm.plan(base, experts, **QUICK).problems[0]
    found = amm.plan(base, experts, partial_experts=True, **QUICK)
    assert found.ok and "visual.* (1)" in found.warnings[0]
    assert found.frozen["vision"] == [(0, 1), (1, 1)]
    assert amm.inspect(base, experts, partial_experts=True).layers[-1].unchanged[1] == 1


def test_another_tokenizer_is_a_warning_and_another_layout_of_it_is_not(pico):
    base, experts = pico
    words = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}
    (base / "tokenizer.json").write_text(json.dumps(words))
    (experts[0] / "tokenizer.json").write_text(json.dumps(words, indent=4))
    (experts[1] / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"b": 0, "a": 1}}, "added_tokens": []})
    )
    found = amm.plan(base, experts, **QUICK)
    (warning,) = found.warnings
    assert found.ok and str(experts[1]) in warning and "tokenizer" in warning


WORDS = {"a": 0, "b": 1, "ab": 2}
ADDED = [{"id": 3, "content": "<end>", "special": True}]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"merges": ["a b"]}, {"merges": [["a", "b"]]}, True),
        ({"merges": ["a b"]}, {"merges": [["a", "ab"]]}, False),
        ({"vocab": [["a", -1.0], ["b", -2]]}, {"vocab": [["a", -1], ["b", -2.0000001]]}, True),
        ({"vocab": [["a", -1.0], ["b", -2]]}, {"vocab": [["b", -1], ["a", -2]]}, False),
        ({"vocab": WORDS | {"<end>": 3}}, {}, True),
        ({"vocab": WORDS | {"<end>": 4}}, {"vocab": WORDS | {"<stop>": 4}}, False),
        ({"vocab": 3, "merges": 5}, {"vocab": [4], "merges": None}, True),
    ],
)
def test_a_tokenizer_saved_by_another_version_is_the_same(pico, one, other, same):
    base, experts = pico
    for folder, model in ((base, one), (experts[0], other), (experts[1], one)):
        content = {"model": {"vocab": WORDS, "merges": ["a b"]} | model, "added_tokens": ADDED}
        (folder / "tokenizer.json").write_text(json.dumps(content))
    assert (not amm.plan(base, experts, **QUICK).warnings) is same


def test_a_merge_repeats_what_a_plan_says_against_it(pico, tmp_path, caplog):
    base, experts = pico
    (base / "config.json").write_text('{"model_type": "mine"}')
    (experts[0] / "config.json").write_text('{"model_type": "theirs"}')
    found = amm.plan(experts[1], [base, experts[0], experts[0]], method="mean")
    result = amm.merge(
        experts[1], [base, experts[0], experts[0]], output=tmp_path / "out", method="mean"
    )
    assert len(found.problems) >= 1 and len(found.warnings) >= 1
    said = (*found.problems, *found.warnings)
    assert tuple(result.warnings) == said and all(words in caplog.text for words in said)
    assert all(words in (tmp_path / "out/README.md").read_text() for words in said)


@pytest.mark.parametrize("names", ["checkpoint-{}", "step_{}/actor", "epoch{}", "{}"])
def test_checkpoints_of_one_run_are_no_swap(pico, tmp_path, names):
    base, _ = pico
    weights, experts = {k: v.float() for k, v in load_folder(base).items()}, []
    for step in (1, 2):
        weights = {k: v + pico_weights(step, 1e-2)[k] for k, v in weights.items()}
        experts.append(save_folder(tmp_path / "run" / names.format(100 * step), weights))
    assert amm.plan(base, experts, **QUICK).ok
    experts[1] = experts[1].rename(tmp_path / "of-another-run")
    (problem,) = amm.plan(base, experts, **QUICK).problems
    assert "swapped" in problem


def test_an_expert_of_other_initial_weights_is_a_problem(pico, tmp_path):
    base, experts = pico
    foreign = save_folder(tmp_path / "foreign", pico_weights(7))
    found = amm.plan(base, [experts[0], foreign], **QUICK)
    assert any(str(foreign) in p and "wasn't trained from this base" in p for p in found.problems)
    assert not any(str(experts[0]) in problem.split(":")[0] for problem in found.problems)


def test_a_far_expert_is_a_warning(pico, tmp_path):
    base, experts = pico
    weights, delta = load_folder(base), pico_weights(8, 0.4)
    far = save_folder(tmp_path / "far", {k: weights[k].float() + delta[k] for k in weights})
    found = amm.plan(base, [experts[0], far], **QUICK)
    assert found.ok and any(str(far) in warning for warning in found.warnings)


def test_swapped_base_and_expert_are_a_problem_that_names_both(pico):
    base, experts = pico
    found = amm.plan(experts[0], [base, experts[1]], **QUICK)
    (problem,) = found.problems
    assert str(base) in problem and str(experts[0]) in problem and "swapped" in problem


@given(st.integers(2, 6), st.integers(0, 5), st.integers(0, 100))
def test_the_centre_of_unrelated_experts_is_found_from_any_seat(count, seat, seed):
    generator = torch.Generator().manual_seed(seed)
    models = 1e-2 * torch.randn(count + 1, 4000, generator=generator, dtype=torch.float64)
    models[0] = 0
    seat %= count + 1
    models[[0, seat]] = models[[seat, 0]]
    assert likely_base(torch.cdist(models, models) ** 2) == seat


def test_experts_of_a_common_ancestor_are_a_warning_not_a_swap(pico, tmp_path):
    base, _ = pico
    weights, shared = load_folder(base), pico_weights(3, 2e-2)
    experts = [
        save_folder(
            tmp_path / f"child{seed}",
            {k: weights[k].float() + shared[k] + pico_weights(seed, 1e-2)[k] for k in weights},
        )
        for seed in (4, 5, 6)
    ]
    found = amm.plan(base, experts, **QUICK)
    assert found.ok and any("share a part" in warning for warning in found.warnings)


def test_identical_inputs_are_warnings(pico):
    base, experts = pico
    found = amm.plan(base, [experts[0], experts[0], base], deep=True, **QUICK)
    assert f"{experts[0]} is identical to {experts[0]}." in found.warnings
    assert f"{base} is identical to the base." in found.warnings


def test_frozen_parts_are_counted_by_expert(pico):
    base, experts = pico
    weights = load_folder(base)
    edit(
        experts[0], **{"visual/patch_embed/proj/weight": weights["visual.patch_embed.proj.weight"]}
    )
    found = amm.plan(base, experts, **QUICK)
    assert found.frozen["vision"] == [(1, 1), (0, 1)]
    assert found.frozen["language"] == [(0, 6), (0, 6)]


def test_entries_that_are_not_finite_are_a_problem(pico):
    base, experts = pico
    edit(experts[0], **{"model/norm/weight": torch.full((16,), float("nan"))})
    found = amm.plan(base, experts, **QUICK)
    assert any("model.norm.weight" in p and "finite" in p for p in found.problems)


@pytest.mark.parametrize("method", ["mean", "emr"])
def test_disk_space_is_counted_for_all_that_the_method_writes(method, pico, tmp_path):
    found = amm.plan(*pico, output=tmp_path / "out", method=method)
    amm.merge(*pico, output=tmp_path / "out", method=method)
    files = [*(tmp_path / "out").glob("*.safetensors"), *(tmp_path / "out").glob(SIDE_FILE)]
    written = [tensor for file in files for tensor in load_file(file).values()]
    assert found.disk_needed == sum(tensor.nbytes for tensor in written)


def test_a_full_disk_is_a_problem(pico, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    found = amm.plan(*pico, **QUICK)
    assert any("has 10B free" in problem for problem in found.problems)


def test_everything_goes_into_json(pico):
    content = json.loads(json.dumps(amm.plan(*pico, **QUICK).as_dict()))
    assert content["ok"] is True and len(content["kinds"]) == len(SHAPES)


def test_a_plan_reads_samples_also_of_matrices_that_are_stored_twice(tmp_path, monkeypatch):
    """A head that equals the embedding is read by `deep`, and by the merge, in full."""
    matrix = torch.randn(2**14, 256, generator=torch.Generator().manual_seed(0))
    names = ("model.embed_tokens.weight", "lm_head.weight")
    folders = [
        save_folder(tmp_path / str(n), {name: (matrix + n).bfloat16() for name in names})
        for n in range(3)
    ]
    read, plain = [], HfCheckpoint.read

    def counted(self, key, rows=None):
        tensor = plain(self, key, rows)
        read.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(HfCheckpoint, "read", counted)
    shares = {}
    for deep in (False, True):
        read.clear()
        found = amm.plan(folders[0], folders[1:], output=tmp_path / "out", method="mean", deep=deep)
        assert found.ok and {each["head"] for each in found.inputs} == {
            "stored, equal to the embedding"
        }
        shares[deep] = sum(read) / (3 * 2 * 2 * matrix.numel())
    assert shares[False] < 0.05 and shares[True] > 1
