"""Whole merges of pico models."""

import hashlib
import json
import logging
import math
import re

import pytest
import torch
from method_cases import in_blocks
from pico_models import OTHER_FILES, SHAPES, load_folder, pico_weights, save_folder
from safetensors.torch import load_file, save_file

import amm
from amm.checkpoints import writer
from amm.config import MergeConfig
from amm.diagnostics import layer_figures
from amm.engines import job, pages
from amm.layers import is_linear
from amm.loops import kernel
from amm.methods import Method, get_method, method_names, registry
from amm.methods.registry import Kernel, SideEntry, SideFile
from amm.settings import Settings, validated
from amm.text import markdown


def in_memory(base, experts, method, parameters, dtype=torch.float32, saved=None):
    """The same merge with all models in memory."""
    chosen = get_method(method)
    settings, merged = chosen.settings(**parameters), {}
    for key, stored in base.items():
        vectors = torch.stack([e[key].to(dtype) - stored.to(dtype) for e in experts])
        if chosen.tensors == "all" or is_linear(key, stored.shape):
            tau = in_blocks(method, vectors, settings, vectors.shape[1], key)
        elif settings.other_tensors == "base":
            tau = torch.zeros_like(vectors[0])
        else:
            tau = vectors.mean(0) if settings.other_tensors == "mean" else vectors.sum(0)
        merged[key] = (stored.to(dtype) + tau).to(stored.dtype if saved is None else saved)
    return merged


def test_what_macos_lacks_is_not_needed(pico, tmp_path, monkeypatch):
    base, experts = pico
    for folder in ("linux", "macos"):
        amm.merge(base, experts, output=tmp_path / folder, method="mean")
        monkeypatch.setattr(pages, "_MAPS", tmp_path / "nothing")
        monkeypatch.setattr(pages, "_LIBC", None)
        monkeypatch.setattr(job, "_MAPPED_SHARE", 2**40)
        monkeypatch.setattr(writer, "_WRITE_BACK", 0)
        monkeypatch.delattr("os.posix_fadvise", raising=False)
    merged, expected = load_folder(tmp_path / "macos"), load_folder(tmp_path / "linux")
    assert all(torch.equal(merged[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("amm", {"steps": 20}),
        ("amm", {"steps": 20, "other_tensors": "base"}),
        ("wudi", {"steps": 20, "other_tensors": "task_arithmetic"}),
        ("mean", {}),
        ("task_arithmetic", {"scale": 0.5}),
    ],
)
def test_streamed_is_in_memory_bit_for_bit(pico, tmp_path, monkeypatch, method, parameters):
    base, experts = pico
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 64)
    out = tmp_path / "out"
    amm.merge(base, experts, output=out, method=method, parameters=parameters, max_shard_size=2000)
    expected = in_memory(load_folder(base), list(map(load_folder, experts)), method, parameters)
    merged = load_folder(out)
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
        k: (v.shape, v.dtype) for k, v in load_folder(base).items()
    }
    for key in expected:
        assert torch.equal(merged[key], expected[key]), key


@pytest.mark.parametrize("method", ["dare", "emr", "mean", "task_arithmetic", "ties"])
@pytest.mark.parametrize("compute", ["float32", "float64"])
@pytest.mark.parametrize(
    ("stored", "trained", "saved"),
    [
        ("bfloat16", "bfloat16", None),
        ("bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("float16", "float16", None),
        ("float32", "float16", "float16"),
        ("float64", "float32", None),
        ("float32", "float64", None),
    ],
)
def test_what_is_merged_entry_by_entry_is_the_methods_function_in_any_dtype(
    pico, tmp_path, monkeypatch, method, compute, stored, trained, saved
):
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 100)
    folders = [
        save_folder(tmp_path / str(i), {k: w.to(getattr(torch, dtype)) for k, w in weights.items()})
        for i, (weights, dtype) in enumerate(
            zip(map(load_folder, (pico[0], *pico[1])), (stored, trained, trained), strict=True)
        )
    ]
    base, *experts = folders
    settings = {"method": method, "compute_dtype": compute, "save_dtype": saved}
    amm.merge(base, experts, output=tmp_path / "out", **settings)
    loaded = load_folder(base), list(map(load_folder, experts))
    target = saved and getattr(torch, saved)
    expected = in_memory(*loaded, method, {}, getattr(torch, compute), target)
    merged = load_folder(tmp_path / "out")
    for key in expected:
        assert merged[key].dtype == expected[key].dtype
        assert torch.equal(merged[key], expected[key]), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_average_keeps_the_bytes_of_what_no_expert_moved(tmp_path, dtype):
    """More digits than the merge computes with, and −0.0."""
    weights = {key: weight.to(dtype) for key, weight in pico_weights(0).items()}
    key = "model.embed_tokens.weight"
    weights[key].view(-1)[0] = -0.0
    base = save_folder(tmp_path / "base", weights)
    moved = {k: weight if k == key else 1.5 * weight for k, weight in weights.items()}
    expert = save_folder(tmp_path / "expert", moved)
    result = amm.merge(base, [expert], output=tmp_path / "out", method="mean")
    bits = {2: torch.int16, 8: torch.int64}[dtype.itemsize]
    merged = load_folder(tmp_path / "out")[key]
    assert torch.equal(merged.view(bits), weights[key].view(bits))
    assert {t.name for t in result.tensors if t.rule == "unchanged"} == {key}


def test_other_files_come_from_the_base_or_the_named_donor(pico, tmp_path):
    base, experts = pico
    amm.merge(base, experts, output=tmp_path / "a", method="mean")
    (experts[0] / "config.json").write_bytes(b"{ }\r\n")
    donor = experts[0]
    amm.merge(base, experts, output=tmp_path / "b", method="mean", copy_files_from=donor)
    for name, content in OTHER_FILES.items():
        assert (tmp_path / "a" / name).read_bytes() == content
    assert (tmp_path / "b" / "config.json").read_bytes() == b"{ }\r\n"


def test_one_expert_gives_that_expert(pico, tmp_path):
    base, experts = pico
    amm.merge(base, experts[:1], output=tmp_path / "out", save_dtype="float32")
    merged, expert = load_folder(tmp_path / "out"), load_folder(experts[0])
    for key in expert:
        torch.testing.assert_close(merged[key], expert[key], rtol=1e-6, atol=1e-7)


def test_what_no_expert_moved_keeps_the_bases_bytes(pico, tmp_path):
    """Also −0.0, which adding zero would turn into 0.0."""
    base, experts = pico
    weights = load_folder(base)
    frozen = [key for key in SHAPES if "up_proj" in key or key.startswith("visual")]
    for key in frozen:
        weights[key].view(-1)[0] = -0.0
    base = save_folder(tmp_path / "frozen", weights)
    trained = [load_folder(folder) for folder in experts]
    for i, expert in enumerate(trained):
        expert |= {key: weights[key].float() for key in frozen}
        experts[i] = save_folder(tmp_path / f"frozen{i}", expert)
    result = amm.merge(base, experts, output=tmp_path / "out", parameters={"steps": 5})
    merged = load_folder(tmp_path / "out")
    for key in frozen:
        assert torch.equal(merged[key].view(torch.int16), weights[key].view(torch.int16))
    assert {t.name for t in result.tensors if t.rule == "unchanged"} == set(frozen)


def test_expert_that_left_a_layer_alone_is_skipped_there(pico, tmp_path):
    base, experts = pico
    key = "model.layers.0.self_attn.q_proj.weight"
    second = load_folder(experts[1]) | {key: load_folder(base)[key].float()}
    experts[1] = save_folder(tmp_path / "half", second)
    result = amm.merge(base, experts, output=tmp_path / "out", save_dtype="float32")
    (report,) = [t for t in result.tensors if t.name == key]
    assert report.layer.experts == 1
    torch.testing.assert_close(load_folder(tmp_path / "out")[key], load_folder(experts[0])[key])


def test_rounding_to_bf16_loses_most_of_a_small_delta_and_says_so(pico, tmp_path, caplog):
    base, _ = pico
    weights = load_folder(base)
    experts = [
        save_folder(
            tmp_path / f"small{seed}",
            {k: weights[k].float() * 0.02 + v for k, v in pico_weights(seed, 1e-5).items()},
        )
        for seed in (1, 2)
    ]
    base = save_folder(tmp_path / "b", {k: (v.float() * 0.02).float() for k, v in weights.items()})
    with caplog.at_level(logging.WARNING, "amm"):
        rounded = amm.merge(base, experts, output=tmp_path / "bf16", save_dtype="bfloat16")
    exact = amm.merge(base, experts, output=tmp_path / "fp32")
    assert rounded.rounding_kept < 0.35 < 0.95 < exact.rounding_kept
    assert any("kept only" in warning for warning in rounded.warnings)
    assert caplog.messages == rounded.warnings
    assert exact.warnings == []
    assert load_folder(tmp_path / "bf16")["model.norm.weight"].dtype == torch.bfloat16


def test_far_going_layers_are_warned_of(pico, tmp_path):
    base, experts = pico
    result = amm.merge(base, experts, output=tmp_path / "out", parameters={"scale": 9.0})
    assert len(result.warnings) == 3
    assert "times ‖Σ τ_i‖" in result.warnings[0]


@pytest.mark.parametrize("method", ["dare", "emr"])
def test_in_by_out_weights_are_merged_entry_by_entry_where_they_are(tmp_path, method):
    key = "h.0.mlp.c_fc.weight"
    base = {key: torch.randn(6, 20), "h.0.mlp.c_fc.bias": torch.zeros(20)}
    moved = base | {key: base[key] + (torch.rand(6, 20) > 0.5) * 1e-2}
    folders = [save_folder(tmp_path / str(i), weights) for i, weights in enumerate((base, moved))]
    amm.merge(folders[0], folders[1:], output=tmp_path / "out", method=method)
    merged = load_folder(tmp_path / "out")[key]
    assert torch.all(merged[moved[key] == base[key]] == base[key][moved[key] == base[key]])
    assert not torch.equal(merged, base[key])


@pytest.mark.parametrize("method", ["amm", "mean", "tsv"])
def test_in_by_out_weights_are_merged_as_the_transposes_of_out_by_in_ones(tmp_path, method):
    key, bias = "h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias"
    models = [{key: torch.randn(6, 20), bias: torch.zeros(20)}]
    models += [models[0] | {key: models[0][key] + 1e-2 * torch.randn(6, 20)} for _ in range(2)]
    merged = {}
    for name in ("conv1d", "linear"):
        folders = []
        for i, weights in enumerate(models):
            turned = weights | ({key: weights[key].T.contiguous()} if name == "linear" else {})
            folders.append(save_folder(tmp_path / f"{name}{i}", turned))
        out = tmp_path / name
        result = amm.merge(folders[0], folders[1:], output=out, method=method)
        merged[name] = load_folder(out)[key], next(t for t in result.tensors if t.name == key)
    (one, of_one), (other, of_other) = merged["conv1d"], merged["linear"]
    assert one.shape == (6, 20) and torch.equal(one, other.T)
    assert of_one == of_other and (method == "mean" or of_one.layer.rho == 2 * 20 / 6)


@pytest.mark.parametrize("method", ["amm", "dare", "emr", "ties"])
def test_a_matrix_under_several_names_is_merged_as_one(pico, tmp_path, method):
    base, experts = pico
    names = ("lm_head.weight", "model.embed_tokens.weight", "model.shared.weight")
    folders = []
    for i, folder in enumerate((base, *experts)):
        weights = load_folder(folder)
        again = dict.fromkeys(names, weights["model.embed_tokens.weight"])
        again = {name: weight.clone() for name, weight in again.items()}
        folders.append(save_folder(tmp_path / f"again{i}", weights | again))
    once = {k: v for k, v in load_folder(folders[0]).items() if k not in names[:2]}
    folders.append(save_folder(tmp_path / "once", once))
    for output, start in (("several", folders[0]), ("one", folders[3])):
        amm.merge(start, folders[1:3], output=tmp_path / output, method=method)
    several, one = load_folder(tmp_path / "several"), load_folder(tmp_path / "one")
    assert all(torch.equal(several[name], one["model.shared.weight"]) for name in names)
    assert not torch.equal(one["model.shared.weight"], once["model.shared.weight"])


@pytest.mark.parametrize("method", ["dare", "mean", "wudi"])
def test_a_part_is_merged_as_if_the_base_filled_it_up_and_the_card_lists_it(pico, tmp_path, method):
    base, experts = pico
    part = {k: v for k, v in load_folder(experts[1]).items() if not k.startswith("visual")}
    filled = save_folder(tmp_path / "filled", load_folder(base) | part)
    part = save_folder(tmp_path / "part", part)
    settings = {"method": method, "partial_experts": True}
    result = amm.merge(base, [experts[0], part], output=tmp_path / "a", **settings)
    amm.merge(base, [experts[0], filled], output=tmp_path / "b", method=method)
    one, other = load_folder(tmp_path / "a"), load_folder(tmp_path / "b")
    assert all(torch.equal(one[key], other[key]) for key in SHAPES)
    (warning,) = (w for w in result.warnings if str(part) in w)
    assert "1 of 8 tensors are carried over from the base: visual.* (1)" in warning
    assert markdown(warning) in (tmp_path / "a" / "README.md").read_text()


def test_report_is_the_same_for_the_same_inputs_and_has_the_figures(pico, tmp_path):
    base, experts = pico
    for name in ("a", "b"):
        amm.merge(base, experts, output=tmp_path / name, save_dtype="float32")
    texts = [(tmp_path / name / "provenance.json").read_bytes() for name in ("a", "b")]
    assert texts[0] == texts[1]
    report = json.loads(texts[0])
    assert report["config"]["parameters"]["steps"] == 300
    assert [found["found"] for found in report["inputs"][1:]] == [
        "Hugging Face folder, 1 safetensors file, 8 tensors, float32"
    ] * 2
    digest = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert report["inputs"][0]["sha256"] == {"model.safetensors": digest}
    tensors = {t["name"]: t for t in report["tensors"]}
    assert set(tensors) == set(SHAPES)
    key = "model.layers.0.mlp.down_proj.weight"
    start = load_folder(base)[key].float()
    vectors = torch.stack([load_folder(e)[key] - start for e in experts])
    figures = layer_figures(vectors, load_folder(tmp_path / "a")[key] - start)
    assert tensors[key]["layer"]["rho"] == 2 * 8 / 48
    assert tensors[key]["layer"]["norm_ratio"] == pytest.approx(figures.norm_ratio, rel=1e-3)
    assert tensors[key]["layer"]["loss_after"] < tensors[key]["layer"]["loss_before"]
    assert tensors["model.norm.weight"]["layer"] is None


def test_entries_that_are_not_finite_are_named(pico, tmp_path):
    base, experts = pico
    weights = load_folder(experts[1])
    weights["model.norm.weight"][3] = float("nan")
    experts[1] = save_folder(tmp_path / "nan", weights)
    with pytest.raises(
        amm.InputError, match="nan: model.norm.weight has entries that aren't finite"
    ):
        amm.merge(base, experts, output=tmp_path / "out", method="mean")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_overflow_of_the_saved_dtype_is_an_error(pico, tmp_path):
    base, experts = pico
    with pytest.raises(amm.InputError, match="don't fit torch.float16"):
        amm.merge(
            base,
            experts,
            output=tmp_path / "out",
            method="task_arithmetic",
            parameters={"scale": 1e8},
            save_dtype="float16",
        )


def test_integer_tensors_are_kept_and_must_agree(pico, tmp_path):
    base, experts = pico
    folders = []
    for i, folder in enumerate([base, *experts]):
        weights = load_folder(folder) | {"ids": torch.arange(4)}
        folders.append(save_folder(tmp_path / f"with_ids{i}", weights))
    amm.merge(folders[0], folders[1:], output=tmp_path / "out", method="mean")
    assert torch.equal(load_folder(tmp_path / "out")["ids"], torch.arange(4))
    weights["ids"] = torch.arange(4) + 1
    folders[2] = save_folder(tmp_path / "other_ids", weights)
    with pytest.raises(amm.InputError, match="other_ids: ids differs from the base's"):
        amm.merge(folders[0], folders[1:], output=tmp_path / "out2", method="mean")


def test_differences_are_found_before_any_work(pico, tmp_path):
    base, experts = pico
    weights = load_folder(experts[0])
    weights["model.norm.weight"] = torch.ones(17)
    wrong = save_folder(tmp_path / "wrong", weights)
    with pytest.raises(amm.InputError, match=r"model.norm.weight +16 +17"):
        amm.merge(base, [wrong], output=tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()


def test_progress_ends_at_one(pico, tmp_path):
    base, experts = pico
    seen = []
    amm.merge(
        base,
        experts,
        output=tmp_path / "out",
        parameters={"steps": 1},
        progress=lambda name, done: seen.append((name, done)),
    )
    assert [name for name, _ in seen] == sorted(SHAPES)
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    assert seen[-1][1] == pytest.approx(1.0)


def test_float64_differs_from_float32_by_rounding_only(pico, tmp_path):
    base, experts = pico
    for dtype in ("float32", "float64"):
        out = tmp_path / dtype
        amm.merge(base, experts, output=out, compute_dtype=dtype, save_dtype="float32")
    one, two = load_folder(tmp_path / "float32"), load_folder(tmp_path / "float64")
    for key in SHAPES:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6)


def test_hashes_can_be_left_out(pico, tmp_path):
    base, experts = pico
    amm.merge(base, experts, output=tmp_path / "out", method="mean", hash_inputs=False)
    report = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [found["sha256"] for found in report["inputs"]] == [{}, {}, {}]


def test_the_number_of_torchs_threads_is_as_before(pico, tmp_path):
    base, experts = pico
    before = torch.get_num_threads()
    amm.merge(base, experts, output=tmp_path / "out", method="mean")
    assert torch.get_num_threads() == before


def test_a_tensor_that_does_not_fit_is_named_before_any_work(pico, tmp_path):
    base, experts = pico
    with pytest.raises(amm.InputError, match=r"mlp.down_proj.weight \(8×48\) with 2") as error:
        amm.merge(base, experts, output=tmp_path / "out", max_memory="30kB")
    enough = re.search(r"set max_memory: (\S+)", str(error.value))[1]
    assert not (tmp_path / ".out.partial").exists()
    amm.merge(base, experts, output=tmp_path / "out", parameters={"steps": 1}, max_memory=enough)


def test_memory_is_that_of_the_method_that_an_override_names(pico, tmp_path):
    base, experts = pico

    def needs(**settings):
        values = {"base": base, "experts": experts, "output": tmp_path / "out", **settings}
        merge = job.Job(validated(MergeConfig, values, "merge"))
        names = [entry.name for entry in merge.entries if "down_proj" in entry.name]
        return [merge.need(block) for name in names for block in merge.blocks(name)]

    override = {"names": ["*down_proj*"], "method": "amm"}
    assert needs(method="mean", overrides=[override]) == needs(method="amm")
    assert (
        needs(method="iso_c", overrides=[override]) == needs(method="amm") != needs(method="iso_c")
    )


def test_an_error_of_the_progress_callback_reaches_the_caller(pico, tmp_path):
    base, experts = pico

    def progress(name, done):
        raise RuntimeError(f"no more after {name}")

    with pytest.raises(RuntimeError, match="no more after model.embed_tokens.weight"):
        amm.merge(base, experts, output=tmp_path / "out", method="mean", progress=progress)


class NoSettings(Settings):
    pass


@pytest.fixture
def placed(monkeypatch):
    """An elementwise method that uses all that methods may use."""
    seen = {}

    def function(vectors, settings, place):
        seen.setdefault(place.name, []).append((place.start, vectors[0].numel()))
        return vectors[0] / place.statistics

    def statistics(blocks, settings):
        once = sum(block.abs().sum() for block in blocks())
        assert once == sum(block.abs().sum() for block in blocks())
        return once

    side = SideFile(
        "signs.safetensors",
        lambda name, shape, experts: [SideEntry(name + ".sign", (math.prod(shape),), torch.int8)],
        lambda vectors, tau, settings: [tau.sign().to(torch.int8).flatten()],
    )
    method = Method(
        "placed",
        function,
        NoSettings,
        "all",
        elementwise=True,
        place=True,
        statistics=statistics,
        side=side,
    )
    monkeypatch.setitem(registry._METHODS, "placed", method)
    return seen


def test_a_methods_kernel_is_used_in_place_of_its_function(pico, tmp_path, monkeypatch):
    class ShareSettings(Settings):
        share: float = 0.25

    @kernel
    def last(vectors, parameters, tau):
        for j in range(len(tau)):
            tau[j] = parameters[0] * vectors[-1, j]

    def function(task_vectors, settings):
        raise AssertionError("called")

    compiled = Kernel(last, lambda settings, experts, statistics: [settings.share])
    method = Method("last", function, ShareSettings, "all", elementwise=True, kernel=compiled)
    monkeypatch.setitem(registry._METHODS, "last", method)
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 100)
    base, experts = pico
    amm.merge(base, experts, output=tmp_path / "out", method="last", save_dtype="float32")
    start, trained = load_folder(base), load_folder(experts[-1])
    for key, merged in load_folder(tmp_path / "out").items():
        tau = 0.25 * (trained[key] - start[key].float())
        assert torch.equal(merged, start[key] + tau)


def test_methods_get_the_place_and_statistics_and_leave_a_side_file(
    pico, tmp_path, monkeypatch, placed
):
    base, experts = pico
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 100)
    amm.merge(base, experts, output=tmp_path / "out", method="placed", save_dtype="float32")
    start, trained = load_folder(base), list(map(load_folder, experts))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    signs = load_file(tmp_path / "out" / "signs.safetensors")
    for key, shape in SHAPES.items():
        at = 0
        for first, size in sorted(placed[key]):
            assert first == at and (size % 8 == 0 or first + size == math.prod(shape))
            at += size
        assert at == math.prod(shape)
        vectors = torch.stack([expert[key] - start[key].float() for expert in trained])
        tau = vectors[0] / vectors.abs().sum()
        torch.testing.assert_close(merged[key], start[key] + tau, rtol=1e-5, atol=1e-7)
        assert torch.equal(signs[key + ".sign"], tau.sign().to(torch.int8).flatten())


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_without_entries_or_dimensions_are_merged(tmp_path, method, dtype):
    weights = {
        "model.layers.0.mlp.up_proj.weight": torch.eye(4, dtype=dtype),
        "model.layers.0.mlp.unused.weight": torch.zeros(0, 4, dtype=dtype),
        "model.layers.0.mlp.down_proj.weight": torch.zeros(4, 0, dtype=dtype),
        "model.layers.0.empty": torch.zeros(0, dtype=dtype),
        "logit_scale": torch.tensor(2.5, dtype=dtype),
    }
    for name, shift in (("base", 0.0), ("expert", 0.5)):
        (tmp_path / name).mkdir()
        moved = {key: value + shift for key, value in weights.items()}
        save_file(moved, tmp_path / name / "model.safetensors")
    models = tmp_path / "base", [tmp_path / "expert"]
    parameters, table = {}, get_method(method).table
    if table is not None:
        save_file({key: torch.ones(()) for key in weights}, tmp_path / "table.safetensors")
        parameters = {table: tmp_path / "table.safetensors"}
    assert amm.plan(*models, method=method, parameters=parameters).ok
    assert amm.inspect(*models).layers
    amm.merge(*models, output=tmp_path / "merged", method=method, parameters=parameters)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
        k: (v.shape, v.dtype) for k, v in weights.items()
    }
