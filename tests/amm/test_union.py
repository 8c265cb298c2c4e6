"""Models of one language model with different encoders, united into one."""

import filecmp
import json
import sys

import pytest
import torch
import yaml
from pico_models import SHAPES, load_folder, pico_weights, run_python, save_folder
from safetensors.torch import save_file

import amm
from amm.cli import main
from amm.engines import job

LANGUAGE = [key for key in SHAPES if "visual" not in key]
VISION = {
    "model.visual.patch_embed.proj.weight": (16, 3, 2, 4, 4),
    "model.visual.merger.mlp.0.weight": (16, 16),
}
AUDIO = {"model.audio_tower.layers.0.fc1.weight": (24, 16), "model.audio_tower.norm.bias": (24,)}
ODD = {"input_max": torch.tensor(float("inf")), "num_batches_tracked": torch.tensor(3)}
OMNI = {"model_type": "omni", "architectures": ["Omni"], "text_config": {"hidden_size": 16}}
CONFIGS = {
    "base": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 16},
    "vision": OMNI | {"audio_config": None, "vision_config": {"depth": 1}, "_name_or_path": "v"},
    "audio": OMNI | {"audio_config": {"depth": 2}, "transformers_version": "4", "dtype": "float32"},
}


def newer(key):
    return key.replace("model.", "model.language_model.", 1)


def older(key):
    return key.replace("model.", "language_model.model.", 1)


def encoder(shapes, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(s, generator=generator).to(dtype) for key, s in shapes.items()}


def language(seed):
    """Float32 weights of an expert in the language model: the base's, and a delta of RMS 1e-2."""
    base, delta = pico_weights(0), pico_weights(seed, 1e-2)
    return {key: base[key].bfloat16().float() + delta[key] for key in LANGUAGE}


def renamed(weights, rename=newer):
    return {rename(key): value for key, value in weights.items()}


def save(folder, weights, **config):
    save_folder(folder, weights)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def models(tmp_path):
    """A bare bf16 language model, and experts of it with a vision and with an audio encoder."""
    base = {key: value.bfloat16() for key, value in pico_weights(0).items() if key in LANGUAGE}
    vision = renamed(language(1)) | encoder(VISION, 3, torch.bfloat16)
    audio = renamed(language(2)) | encoder(AUDIO, 4)
    audio |= {f"model.audio_tower.{name}": value for name, value in ODD.items()}
    weights = {"base": base, "vision": vision, "audio": audio}
    return [save(tmp_path / name, weights[name], **CONFIGS[name]) for name in weights]


def unite(models, output, **more):
    base, *experts = models
    more = {"method": "mean", "copy_files_from": experts[0]} | more
    return amm.merge(base, experts, output=output, parts="union", **more)


def same(one, other):
    return one.dtype == other.dtype and torch.equal(one, other)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("amm", {"steps": 5}), ("ties", {}), ("emr", {}), ("mean", {}), ("task_arithmetic", {})],
)
def test_what_all_have_is_merged_as_if_alone_and_the_rest_is_copied(
    models, tmp_path, monkeypatch, method, parameters
):
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 64)
    settings = {"method": method, "parameters": parameters}
    result = unite(models, tmp_path / "out", max_shard_size=2000, **settings)
    alone = [save(tmp_path / f"alone{seed}", language(seed), **CONFIGS["base"]) for seed in (1, 2)]
    amm.merge(models[0], alone, output=tmp_path / "alone", **settings)
    merged, expected = load_folder(tmp_path / "out"), load_folder(tmp_path / "alone")
    vision, audio = map(load_folder, models[1:])
    rules = {tensor.name: tensor.rule for tensor in result.tensors}
    assert merged.keys() == rules.keys() == vision.keys() | audio.keys()
    for key in LANGUAGE:
        assert same(merged[newer(key)], expected[key]), key
    for number, own in ((1, vision), (2, audio)):
        for key in own.keys() - set(map(newer, LANGUAGE)):
            assert same(merged[key], own[key]) and rules[key] == f"copied from expert {number}"
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2


def test_streamed_is_in_memory(models, tmp_path):
    unite(models, tmp_path / "out", save_dtype="float32")
    base, merged = load_folder(models[0]), load_folder(tmp_path / "out")
    one, other = language(1), language(2)
    for key in LANGUAGE:
        start = base[key].float()
        mean = start + (one[key] - start + other[key] - start) / 2
        assert torch.allclose(merged[newer(key)], mean, rtol=0, atol=1e-7), key


def test_the_saved_dtype_is_that_of_copied_tensors_too_and_infinite_bounds_stay(models, tmp_path):
    unite(models, tmp_path / "out", save_dtype="float16")
    merged, audio = load_folder(tmp_path / "out"), load_folder(models[2])
    for key in ("layers.0.fc1.weight", "input_max"):
        assert same(merged[f"model.audio_tower.{key}"], audio[f"model.audio_tower.{key}"].half())
    assert merged["model.audio_tower.num_batches_tracked"].dtype == torch.int64
    large = load_folder(models[2]) | {"model.audio_tower.norm.bias": torch.full((24,), 1e6)}
    models[2] = save(tmp_path / "large", large, **CONFIGS["audio"])
    with pytest.raises(amm.InputError, match="norm.bias: the merged weights don't fit"):
        unite(models, tmp_path / "not", save_dtype="float16")


def test_a_base_keeps_the_encoder_that_it_alone_has_and_its_names(models, tmp_path):
    _, vision, audio = models
    weights = {
        key if "visual" in key else older(key.replace("language_model.", "")): value
        for key, value in load_folder(vision).items()
    }
    base = save(tmp_path / "old", weights, **CONFIGS["vision"])
    result = amm.merge(base, [audio], output=tmp_path / "out", parts="union", method="mean")
    merged, own = load_folder(tmp_path / "out"), load_folder(audio)
    audio_keys = {key for key in own if "audio" in key}
    assert merged.keys() == weights.keys() | audio_keys
    assert all(same(merged[key], own[key]) for key in audio_keys)
    assert all(same(merged[key], weights[key]) for key in VISION)
    rules = {tensor.name: tensor.rule for tensor in result.tensors}
    assert {rules[key] for key in VISION} == {"base"}
    for key in LANGUAGE:  # one expert's mean is that expert, up to rounding
        assert torch.allclose(merged[older(key)], own[newer(key)], rtol=0, atol=1e-6)


def test_names_without_wrappers_are_the_outputs(models, tmp_path):
    wrapped = {f"module._orig_mod.{key}": value for key, value in load_folder(models[2]).items()}
    wrapped_models = [*models[:2], save(tmp_path / "wrapped", wrapped, **CONFIGS["audio"])]
    unite(models, tmp_path / "plain")
    unite(wrapped_models, tmp_path / "out")
    merged, plain = load_folder(tmp_path / "out"), load_folder(tmp_path / "plain")
    assert merged.keys() == plain.keys()
    assert all(same(merged[key], plain[key]) for key in plain)


def test_owners_that_name_what_all_share_differently_need_a_donor(models, tmp_path):
    base, vision, audio = models
    weights = {older(k.replace("language_model.", "")): v for k, v in load_folder(audio).items()}
    weights = {key.replace("language_model.model.audio", "audio"): v for key, v in weights.items()}
    other = save(tmp_path / "other", weights, **CONFIGS["audio"])
    own = save(tmp_path / "own", language(5), **OMNI)
    with pytest.raises(
        amm.InputError, match=r"vision has model.language_model.*set copy_files_fro"
    ):
        unite([base, vision, other], tmp_path / "out", copy_files_from=own)
    unite([base, vision, other], tmp_path / "one")
    unite([base, vision, other], tmp_path / "two", copy_files_from=other)
    one, two = load_folder(tmp_path / "one"), load_folder(tmp_path / "two")
    for key in LANGUAGE:
        assert same(one[newer(key)], two[older(key)])
    copied = {*VISION, *(key for key in weights if key.startswith("audio"))}
    assert one.keys() - two.keys() == set(map(newer, LANGUAGE)) and copied < one.keys()


def test_what_several_have_and_the_base_lacks_is_an_error(models, tmp_path):
    both = load_folder(models[2]) | encoder(VISION, 9)
    models[2] = save(tmp_path / "both", both, **CONFIGS["audio"])
    with pytest.raises(amm.InputError, match="no one owner.*a base that has it too") as error:
        unite(models, tmp_path / "out")
    lines = [line.split() for line in str(error.value).splitlines()[2:]]
    assert [(line[0], line[1]) for line in lines] == [
        (str(path), key) for key in sorted(VISION) for path in models[1:]
    ]
    found = amm.plan(models[0], models[1:], parts="union", copy_files_from=models[1], method="mean")
    assert not found.ok and "no one owner" in found.problems[0] and len(found.differences) == 4


def test_what_the_base_and_some_experts_have_is_an_error_unless_the_others_are_partial(
    models, tmp_path
):
    _, vision, audio = models
    tuned = renamed(language(6)) | encoder(VISION, 7, torch.bfloat16)
    tuned = save(tmp_path / "tuned", tuned, **CONFIGS["vision"])
    settings = {"parts": "union", "method": "mean"}
    with pytest.raises(amm.InputError, match="partial_experts: true") as error:
        amm.merge(vision, [tuned, audio], output=tmp_path / "not", **settings)
    assert [line.split()[:2] for line in str(error.value).splitlines()[2:]] == [
        [str(audio), key] for key in sorted(VISION)
    ]
    experts = [tuned, {"path": audio, "partial": True}]
    amm.merge(vision, experts, output=tmp_path / "out", **settings)
    merged, base, one = (load_folder(f) for f in (tmp_path / "out", vision, tuned))
    for key in VISION:
        mean = (base[key].float() + (one[key].float() - base[key].float()) / 2).bfloat16()
        assert same(merged[key], mean)
    assert any("audio" in key for key in merged)


def test_models_that_share_nothing_are_an_error(models, tmp_path):
    stranger = save(tmp_path / "stranger", encoder(AUDIO, 1), **CONFIGS["audio"])
    with pytest.raises(amm.InputError, match=r"model.norm.weight +16 +missing"):
        unite([models[0], stranger], tmp_path / "out")


def test_a_tied_head_is_one_tensor(models, tmp_path):
    base, vision, audio = map(load_folder, models)
    embedding = "model.embed_tokens.weight"
    stored = save(tmp_path / "stored", base | {"lm_head.weight": base[embedding].clone()})
    unite(models, tmp_path / "plain")
    unite([stored, *models[1:]], tmp_path / "out")
    headed = audio | {"lm_head.weight": audio[newer(embedding)].clone()}
    headed = save(tmp_path / "headed", headed, **CONFIGS["audio"])
    unite([models[0], models[1], headed], tmp_path / "headed_out")
    plain = load_folder(tmp_path / "plain")
    for name in ("out", "headed_out"):
        merged = load_folder(tmp_path / name)
        assert merged.keys() == plain.keys() == vision.keys() | audio.keys()
        assert same(merged[newer(embedding)], plain[newer(embedding)])
    untied = save(tmp_path / "untied", audio | {"lm_head.weight": audio[newer(embedding)] + 1})
    with pytest.raises(amm.InputError, match="differs from the embedding"):
        unite([models[0], models[1], untied], tmp_path / "not")


def test_overrides_are_of_what_is_merged(models, tmp_path):
    norm = {"names": "*language_model.norm*", "method": "base"}
    unite(models, tmp_path / "out", overrides=[norm])
    merged, base = load_folder(tmp_path / "out"), load_folder(models[0])
    assert same(merged["model.language_model.norm.weight"], base["model.norm.weight"])
    with pytest.raises(amm.InputError, match="no tensor of the base has a name like '\\*visual"):
        unite(models, tmp_path / "not", overrides=[{"names": "*visual*", "method": "base"}])


def test_configurations_are_united(models, tmp_path):
    unite(models, tmp_path / "out")
    assert config_of(tmp_path / "out") == CONFIGS["vision"] | {
        "audio_config": {"depth": 2},
        "transformers_version": "4",
        "dtype": "float32",
    }
    unite(models, tmp_path / "turned", copy_files_from=models[2])
    turned = config_of(tmp_path / "turned")
    assert turned["vision_config"] == {"depth": 1} and turned["audio_config"] == {"depth": 2}
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text('{ "architectures": ["Mine"],"text_config": {"n":1}}')
    unite(models, tmp_path / "mine", copy_files_from=own)
    copy = (tmp_path / "mine" / "config.json").read_bytes()
    assert copy == (own / "config.json").read_bytes()


def change(folder, **values):
    (folder / "config.json").write_text(json.dumps(config_of(folder) | values))


def test_configurations_that_disagree_are_an_error_before_any_work(models, tmp_path):
    change(models[2], text_config={"hidden_size": 17}, image_token_id=5)
    change(models[1], image_token_id=6)
    with pytest.raises(amm.InputError, match="config.json disagree") as error:
        unite(models, tmp_path / "out")
    lines = str(error.value).splitlines()
    assert lines[1:3] == [
        f"  text_config.hidden_size: 16 and 17, in {models[2]}/config.json",
        f"  image_token_id: 6 and 5, in {models[2]}/config.json",
    ]
    assert "set copy_files_from to a folder" in lines[3]
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()
    found = amm.plan(models[0], models[1:], parts="union", copy_files_from=models[1], method="mean")
    assert found.problems == [str(error.value)]


@pytest.mark.parametrize("key", ["architectures", "model_type", "auto_map"])
def test_classes_that_differ_need_a_donor(models, tmp_path, key):
    change(models[2], **{key: ["Other"]})
    base = save(tmp_path / "same", load_folder(models[0]), **OMNI)
    with pytest.raises(
        amm.InputError, match="of different classes.*set copy_files_from to the mod"
    ):
        unite([base, *models[1:]], tmp_path / "out", copy_files_from=None)
    unite([base, *models[1:]], tmp_path / "out")
    assert config_of(tmp_path / "out").get(key) == CONFIGS["vision"].get(key)


def test_a_bare_base_of_another_class_is_no_donor_by_itself(models, tmp_path):
    with pytest.raises(amm.InputError, match="Qwen2ForCausalLM.*set copy_files_from to the model"):
        unite(models, tmp_path / "out", copy_files_from=None)


def test_files_that_an_owner_alone_has_are_copied_and_the_others_are_the_donors(models, tmp_path):
    vision, audio = models[1:]
    for folder, files in (
        (vision, {"README.md": "v", "preprocessor_config.json": '{"size": 1}'}),
        (audio, {"README.md": "a", "modeling_audio.py": "1", "extra/audio.json": "{}"}),
    ):
        for name, content in files.items():
            (folder / name).write_text(content)
    result = unite(models, tmp_path / "out")
    out = tmp_path / "out"
    same_as_owner = ["modeling_audio.py", "extra/audio.json"]
    assert filecmp.cmpfiles(audio, out, same_as_owner, shallow=False)[0] == same_as_owner
    assert (out / "preprocessor_config.json").read_text() == '{"size": 1}'
    assert (out / "README.base.md").read_text() == "v"
    assert result.owned_files == dict.fromkeys(sorted(same_as_owner), str(audio))
    found = amm.plan(models[0], models[1:], parts="union", copy_files_from=vision, method="mean")
    assert found.warnings == result.warnings and found.ok
    said = "\n".join(found.warnings)
    for sentence in (
        f"copied from {audio}, as {vision} has none: modeling_audio.py, extra/audio.json.",
        f"{audio}: its preprocessor_config.json differ from those",
        "never run here, and able to run code where they are loaded: modeling_audio.py",
        f"{vision}: what it alone has is copied from it: model.visual.* (2).",
        f"{audio}: what it alone has is copied from it: model.audio_tower.* (4).",
    ):
        assert sentence in said


def test_other_vocabularies_are_warned_of(models):
    for number, folder in enumerate(models):
        words = {"model": {"vocab": {"a": number // 2, "b": 1 - number // 2}, "merges": []}}
        (folder / "tokenizer.json").write_text(json.dumps(words))
    found = amm.plan(models[0], models[1:], parts="union", copy_files_from=models[1], method="mean")
    (warning,) = (each for each in found.warnings if "tokenizer.json maps words" in each)
    assert warning.startswith(str(models[2])) and found.ok


@pytest.mark.parametrize("depth", [600, 900, 940, 960, 980])
def test_a_configuration_of_many_levels_is_no_traceback(models, tmp_path, depth):
    deep = '{"k":' * depth + "1" + "}" * depth
    for folder in models[1:]:
        said = json.dumps(config_of(folder))
        (folder / "config.json").write_text(f'{said[:-1]}, "deep": {deep}}}')
    try:
        unite(models, tmp_path / "out")
        assert config_of(tmp_path / "out")["deep"] == json.loads(deep)
    except amm.InputError as error:
        assert "nested too deeply" in str(error) or "isn't a model's configuration" in str(error)


def test_plan_report_and_check_say_what_is_copied(models, tmp_path, monkeypatch):
    monkeypatch.setattr("amm.checking.try_loading", lambda library, folder: (None, "left out"))
    audio = {k: v for k, v in load_folder(models[2]).items() if "input_max" not in k}
    models[2] = save(tmp_path / "finite", audio, **CONFIGS["audio"])
    settings = {"parts": "union", "copy_files_from": models[1], "method": "mean"}
    for deep in (False, True):
        found = amm.plan(models[0], models[1:], deep=deep, **settings)
        assert found.ok and sum(kind.count for kind in found.kinds) == len(LANGUAGE) + 2 + 3
        rules = {kind.kind: kind.rule for kind in found.kinds}
        assert rules["model.visual.merger.mlp.*.weight"] == "copied from expert 1"
        assert rules["model.audio_tower.norm.bias"] == "copied from expert 2"
        assert rules["model.language_model.norm.weight"] == "mean"
        assert "vision" not in found.frozen
    out = tmp_path / "out"
    unite(models, out)
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["config"]["parts"] == "union"
    rules = [tensor["rule"] for tensor in provenance["tensors"]]
    assert rules.count("copied from expert 1") == 2 and rules.count("copied from expert 2") == 3
    assert "2 copied from expert 1, 3 copied from expert 2" in (out / "README.md").read_text()
    assert amm.check(out).ok
    merged = load_folder(out)
    del merged["model.audio_tower.norm.bias"]
    save_file(merged, out / "model.safetensors", metadata={"format": "pt"})
    found = {check.name: check for check in amm.check(out).checks}
    assert found["names"].detail == "model.audio_tower.norm.bias is missing"
    models[2].rename(tmp_path / "elsewhere")
    names = {check.name: check for check in amm.check(out).checks}["names"]
    assert names.ok is None and "finite isn't a folder here" in names.detail


def test_the_command_line_plans_and_merges(models, tmp_path, monkeypatch, capsys):
    base, vision, audio = map(str, models)
    content = {"base": base, "experts": [vision, audio], "output": str(tmp_path / "out")}
    content |= {"method": "mean", "parts": "union", "copy_files_from": vision}
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump(content))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["amm", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr()

    code, (printed, _) = run("plan", str(file))
    assert code == 0 and "expert 1" in printed and "model.visual" in printed
    code, (printed, _) = run("plan", str(file), "--json")
    assert [kind["rule"] for kind in json.loads(printed)["kinds"]].count(
        "copied from expert 2"
    ) == 4
    assert run("plan", str(file), "--set", "parts=base")[0] == 1
    code, (_, errors) = run("merge", str(file), "--set", "parts=whole")
    assert code == 2 and "parts can't be 'whole'" in errors and "Allowed: base, union" in errors
    assert run("merge", str(file))[0] == 0
    unite(models, tmp_path / "python")
    files = ["model.safetensors", "config.json"]
    assert filecmp.cmpfiles(tmp_path / "python", tmp_path / "out", files, False)[0] == files


class Stop(Exception):
    pass


def test_an_interrupted_union_goes_on_to_the_same_bytes(models, tmp_path):
    unite(models, tmp_path / "whole")

    def stop(name, done):
        if done > 0.5:
            raise Stop

    with pytest.raises(Stop):
        unite(models, tmp_path / "out", progress=stop)
    with pytest.raises(amm.InputError, match="copy_files_from: .*vision, now .*audio"):
        unite(models, tmp_path / "out", copy_files_from=models[2])
    result = unite(models, tmp_path / "out")
    assert 0 < result.resumed < len(result.tensors)
    files = ["model.safetensors", "config.json", "README.md"]
    assert filecmp.cmpfiles(tmp_path / "whole", tmp_path / "out", files, False)[0] == files


def adapter(folder, key):
    """A LoRA adapter of one weight, and its s · B A."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(8)
    rows, columns = SHAPES[key.replace("language_model.", "")]
    a, b = (torch.randn(s, generator=generator) for s in ((2, columns), (rows, 2)))
    module = f"base_model.model.{key.removesuffix('.weight')}"
    factors = {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return 0.5 * b @ a


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("own", [True, False], ids=["on a model with an encoder", "on the base"])
def test_of_an_adapter_the_product_is_merged(models, tmp_path, own):
    """What it is added to beside the language model is copied, and no part of its ΔW."""
    base, vision, audio = map(load_folder, models)
    product = adapter(tmp_path / "lora", newer(UP) if own else UP)
    expert = tmp_path / "lora"
    if own:
        start = renamed({key: value.float() for key, value in language(1).items()}) | {
            key: vision[key] for key in VISION
        }
        save(tmp_path / "tuned", start, **CONFIGS["vision"])
        expert = {"path": expert, "base": tmp_path / "tuned"}
    amm.merge(
        models[0],
        [expert, models[2]],
        output=tmp_path / "out",
        parts="union",
        copy_files_from=tmp_path / "tuned" if own else models[2],
        method="task_arithmetic",
        parameters={"scale": 1.0},
        save_dtype="float32",
    )
    merged = load_folder(tmp_path / "out")
    encoders = {key for key in audio if "audio" in key} | set(VISION if own else ())
    assert merged.keys() == {*map(newer, LANGUAGE), *encoders}
    for key in LANGUAGE:
        expected = audio[newer(key)] + (product if key == UP else 0)
        assert torch.allclose(merged[newer(key)], expected, rtol=0, atol=1e-6), key
    assert all(torch.equal(merged[key], vision[key].float()) for key in VISION if own)


TINY = """
from transformers import Gemma4Config, Gemma4ForCausalLM, Gemma4ForConditionalGeneration

TEXT = dict(
    vocab_size=64, vocab_size_per_layer_input=64, hidden_size=16, hidden_size_per_layer_input=4,
    intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    head_dim=8, global_head_dim=8, layer_types=["sliding_attention", "full_attention"],
    num_kv_shared_layers=0, max_position_embeddings=64, sliding_window=16,
)
VISION = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, head_dim=8, patch_size=4, position_embedding_size=16,
    pooling_kernel_size=2,
)
AUDIO = dict(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, subsampling_conv_channels=[8, 4],
    output_proj_dims=16,
)

def make(vision, audio, seed):
    torch.manual_seed(seed)
    ids = dict(image_token_id=60, audio_token_id=61, video_token_id=62)
    config = Gemma4Config(text_config=TEXT, vision_config=vision, audio_config=audio, **ids)
    model = Gemma4ForConditionalGeneration(config).eval()
    torch.manual_seed(10)
    for parameter in model.model.language_model.parameters():
        parameter.data = 0.5 * torch.randn_like(parameter)
    return model

def language(model):
    return model.model.language_model

folder = __import__("pathlib").Path(sys.argv[1])
"""
SAVE = """
vision, audio = make(VISION, None, 0), make(None, AUDIO, 1)
base = Gemma4ForCausalLM(vision.config.text_config)
base.model.load_state_dict(language(vision).state_dict())
base.save_pretrained(folder / "base")
for seed, name, model in ((2, "vision", vision), (3, "audio", audio)):
    model.save_pretrained(folder / name)
    torch.manual_seed(seed)
    for parameter in language(model).parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder / f"tuned_{name}")
"""
ANSWER = """
def load(name):
    model, loading = Gemma4ForConditionalGeneration.from_pretrained(
        folder / name, output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()

def answers(model, vision, audio):
    torch.manual_seed(5)
    places = torch.tensor([[x, y] for y in range(4) for x in range(4)])[None]
    pixels, sound = torch.rand(1, 16, 48), torch.randn(1, 16, 8)
    image = dict(pixel_values=pixels, image_position_ids=places)
    heard = dict(input_features=sound, input_features_mask=torch.ones(1, 16, dtype=torch.bool))
    with torch.no_grad():
        if vision:
            yield model(input_ids=torch.tensor([[1, 2] + [60] * 4 + [3]]), **image).logits
        if audio:
            yield model(input_ids=torch.tensor([[1, 2] + [61] * 4 + [3]]), **heard).logits
        yield model(input_ids=torch.tensor([[1, 2] + [3] * 4 + [3]])).logits

sees, hears = load("vision"), load("audio")
for name in ("bare", "owner"):
    seen, heard, read = answers(load(name), True, True)
    assert all(map(torch.equal, (seen, read), answers(sees, True, False)))
    assert all(map(torch.equal, (heard, read), answers(hears, False, True)))
    assert (seen - read).abs().max() > 0.01 and (heard - read).abs().max() > 0.01

sees, hears, start = load("tuned_vision"), load("tuned_audio"), load("vision")
weights = zip(*(language(m).parameters() for m in (sees, hears, start)))
for one, other, first in weights:
    one.data = first + (one - first + other - first) / 2
language(hears).load_state_dict(language(sees).state_dict())
seen, heard, _ = answers(load("tuned"), True, True)
assert torch.allclose(seen, next(answers(sees, True, False)), atol=1e-5)
assert torch.allclose(heard, next(answers(hears, False, True)), atol=1e-5)
print("answered")
"""


@pytest.mark.slow
def test_a_united_gemma_answers_for_both_in_transformers(tmp_path):
    """One language model with a vision tower, and with an audio tower, loaded with both."""
    pytest.importorskip("transformers")
    run_python(TINY + SAVE, tmp_path)
    bare, vision, audio = (tmp_path / name for name in ("base", "vision", "audio"))
    tuned = [tmp_path / "tuned_vision", tmp_path / "tuned_audio"]
    settings = {"parts": "union", "method": "mean"}
    amm.merge(bare, [vision, audio], output=tmp_path / "bare", copy_files_from=vision, **settings)
    amm.merge(vision, [audio], output=tmp_path / "owner", **settings)
    amm.merge(bare, tuned, output=tmp_path / "tuned", copy_files_from=tuned[1], **settings)
    assert "answered" in run_python(TINY + ANSWER, tmp_path)
