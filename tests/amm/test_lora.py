"""LoRA adapters against what PEFT itself makes of them."""

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from pico_models import run_python
from safetensors.torch import load_file, save_file

import amm
from amm.checkpoints import open_checkpoint
from amm.errors import InputError

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is the reference")

VARIANTS = {
    "plain": {"target_modules": ["q", "up"]},
    "rank_stabilised": {"target_modules": ["q", "up"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q", "up"],
        "rank_pattern": {"up": 3, r"blocks\.1\.q": 2},
        "alpha_pattern": {r"blocks\.\d+\.up": 7, "^blocks.0.q": 5},
    },
    "bias_of_all": {"target_modules": ["q"], "bias": "all"},
    "bias_of_lora": {"target_modules": ["q", "up"], "bias": "lora_only"},
    "lora_bias": {"target_modules": ["q"], "lora_bias": True, "bias": "none"},
    "modules_to_save": {"target_modules": ["q"], "modules_to_save": ["head", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "q"]},
    "convolution": {"target_modules": ["conv", "q"]},
    "conv1d": {"target_modules": ["turned", "square"], "fan_in_fan_out": True},
    "dora": {"target_modules": ["q", "up"], "use_dora": True},
    "dora_rank_stabilised": {"target_modules": ["up"], "use_dora": True, "use_rslora": True},
    "orthogonal": {"target_modules": ["q"], "init_lora_weights": "orthogonal"},
}

MAKE = """
import copy, json, pathlib, warnings
warnings.simplefilter("ignore")
from torch import nn
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.up = nn.Linear(12, 12), nn.Linear(12, 20, bias=True)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(15, 12)
        self.conv = nn.Conv2d(3, 4, 2)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.turned, self.square, self.norm = Conv1D(20, 12), Conv1D(12, 12), nn.LayerNorm(12)
        self.head = nn.Linear(12, 15, bias=False)

folder, variants = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
torch.manual_seed(0)
base = Model().bfloat16()
(folder / "base").mkdir()
save_file(base.state_dict(), folder / "base" / "model.safetensors")
base.float()
for name, settings in variants.items():
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, lora_alpha=6, **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder / name)
    torch.save(model.state_dict(), folder / name / "shards.pt")
    torch.save(model.merge_and_unload().state_dict(), folder / name / "merged.pt")
"""


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    run_python(MAKE, folder, json.dumps(VARIANTS))
    return folder


@pytest.fixture(scope="module")
def base(adapters):
    return open_checkpoint(adapters / "base")


def merged_by_peft(adapters, name):
    return torch.load(adapters / name / "merged.pt", weights_only=True)


def check(checkpoint, merged, base):
    assert checkpoint.keys() == base.keys() == sorted(merged)
    for key, expected in merged.items():
        read = checkpoint.read(key)
        assert read.dtype == checkpoint.dtype(key)
        assert tuple(read.shape) == checkpoint.shape(key) == tuple(expected.shape)
        torch.testing.assert_close(read.float(), expected, rtol=1e-6, atol=1e-6, msg=key)
        for rows in (slice(0, 1), slice(1, 7), slice(5, None)):
            part = checkpoint.read(key, rows)
            torch.testing.assert_close(part, read[rows], rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_an_adapter_gives_what_peft_merges(adapters, base, name):
    checkpoint = open_checkpoint(adapters / name, base)
    merged = merged_by_peft(adapters, name)
    check(checkpoint, merged, base)
    changed = [k for k in merged if not torch.equal(merged[k], base.read(k).float())]
    assert changed and all(checkpoint.dtype(key) == torch.float32 for key in changed)
    assert all(checkpoint.dtype(k) == torch.bfloat16 for k in merged if k not in changed)


def test_an_adapter_is_merged_as_an_expert(adapters, tmp_path):
    out = tmp_path / "out"
    amm.merge(
        adapters / "base",
        [adapters / "bias_of_all"],
        output=out,
        method="mean",
        save_dtype="float32",
    )
    merged = load_file(out / "model.safetensors")
    for key, expected in merged_by_peft(adapters, "bias_of_all").items():
        torch.testing.assert_close(merged[key], expected, rtol=1e-6, atol=1e-6, msg=key)


def test_files_are_the_adapters_and_the_bases(adapters, base):
    checkpoint = open_checkpoint(adapters / "plain", base)
    assert [str(file.relative_to(adapters)) for file in checkpoint.files()] == [
        "plain/adapter_model.safetensors",
        "plain/adapter_config.json",
        "base/model.safetensors",
    ]
    assert checkpoint.files_folder == adapters / "base"
    assert "LoRA adapter, r = 4, alpha = 6, 4 weights adapted" in checkpoint.describe()


def test_weights_may_be_a_bin_file(adapters, base, tmp_path):
    shutil.copy(adapters / "plain" / "adapter_config.json", tmp_path)
    weights = load_file(adapters / "plain" / "adapter_model.safetensors")
    torch.save(weights, tmp_path / "adapter_model.bin")
    one, two = open_checkpoint(tmp_path, base), open_checkpoint(adapters / "plain", base)
    assert all(torch.equal(one.read(key), two.read(key)) for key in base.keys())


def test_names_of_another_generation_of_transformers_match(tmp_path):
    weight = torch.randn(6, 4)
    (tmp_path / "base").mkdir()
    save_file({"model.layers.0.q.weight": weight}, tmp_path / "base" / "model.safetensors")
    a, b = torch.randn(2, 4), torch.randn(6, 2)
    name = "base_model.model.model.language_model.layers.0.q"
    factors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    (tmp_path / "adapter").mkdir()
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    config = {"r": 2, "lora_alpha": 4}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(tmp_path / "adapter", open_checkpoint(tmp_path / "base"))
    read = checkpoint.read("model.layers.0.q.weight")
    torch.testing.assert_close(read, weight + 2 * b @ a)


TIED = """
import json, pathlib, warnings
warnings.simplefilter("ignore")
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM
folder = pathlib.Path(sys.argv[1])
config = Qwen2Config(vocab_size=24, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)
model = Qwen2ForCausalLM(config)
model.save_pretrained(folder / "base")
model = get_peft_model(model, LoraConfig(
    r=2, lora_alpha=4, target_modules=["embed_tokens"], ensure_weight_tying=True,
    init_lora_weights=False,
))
model.save_pretrained(folder / "adapter")
merged = model.get_base_model().model.embed_tokens
print(json.dumps((merged.base_layer.weight + merged.get_delta_weight("default")).tolist()))
"""


@pytest.mark.slow
def test_an_adapter_that_keeps_a_tied_head_equal_is_that_of_one_tensor(tmp_path):
    expected = torch.tensor(json.loads(run_python(TIED, tmp_path).splitlines()[-1]))
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    head = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    for number, twice in enumerate(({}, head)):
        save_file(weights | twice, file, metadata={"format": "pt"})
        out = tmp_path / f"out{number}"
        amm.merge(tmp_path / "base", [tmp_path / "adapter"], output=out, method="mean")
        merged = load_file(out / "model.safetensors")
        for name in ("model.embed_tokens.weight", *twice):
            torch.testing.assert_close(merged[name], expected)


@pytest.mark.parametrize("heads", ["lm_head.weight", "lm_head.lora_A.weight"])
def test_a_tied_head_beside_saved_embeddings_must_equal_them(tmp_path, heads):
    embedding = torch.randn(6, 4)
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
    save_file({"model.embed_tokens.weight": embedding}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    trained = {"base_model.model.model.embed_tokens.weight": embedding + 1}
    base = open_checkpoint(tmp_path / "base")

    def opened(head):
        weights = trained | {f"base_model.model.{heads}": head}
        save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
        return open_checkpoint(tmp_path / "adapter", base)

    if heads == "lm_head.weight":
        read = opened(embedding + 1).read("model.embed_tokens.weight")
        assert torch.equal(read, embedding + 1)
    with pytest.raises(InputError, match="ties its head .* without the head among its modules"):
        opened(torch.randn(6, 4))


def save_shards(folder, adapters, name, keep, config):
    state = torch.load(adapters / name / "shards.pt", weights_only=True)
    folder = folder / "global_step_1" / "actor"
    (folder / config).parent.mkdir(parents=True)
    state = {key: value for key, value in state.items() if keep(key)}
    torch.save(state, folder / "model_world_size_1_rank_0.pt")
    content = (adapters / name / "adapter_config.json").read_text()
    if config == "lora_train_meta.json":
        content = json.dumps({"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"})
    (folder / config).write_text(content)
    return folder.parent


@pytest.mark.parametrize("config", ["lora_train_meta.json", "lora_adapter/adapter_config.json"])
@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_among_fsdp_shards_is_merged(adapters, base, tmp_path, config, alone):
    step = save_shards(tmp_path, adapters, "plain", lambda k: "lora_" in k or not alone, config)
    checkpoint = open_checkpoint(step, base if alone else None)
    check(checkpoint, merged_by_peft(adapters, "plain"), base)
    assert step / "actor" / config in checkpoint.files()


def test_modules_to_save_among_fsdp_shards_replace_the_originals(adapters, base, tmp_path):
    config = "lora_adapter/adapter_config.json"
    step = save_shards(tmp_path, adapters, "modules_to_save", lambda k: True, config)
    check(open_checkpoint(step), merged_by_peft(adapters, "modules_to_save"), base)


def test_shards_without_the_adapters_alpha_are_refused(adapters, tmp_path):
    step = save_shards(tmp_path, adapters, "plain", lambda k: True, "lora_train_meta.json")
    (step / "actor" / "lora_train_meta.json").unlink()
    with pytest.raises(InputError, match="neither lora_adapter/adapter_config.json .* which say"):
        open_checkpoint(step)


def test_an_adapter_needs_its_base(adapters, base, tmp_path):
    with pytest.raises(InputError, match="plain is a LoRA adapter without its model; give it as"):
        open_checkpoint(adapters / "plain")
    meta = "lora_train_meta.json"
    step = save_shards(tmp_path, adapters, "plain", lambda k: "lora_" in k, meta)
    with pytest.raises(InputError, match="actor is a LoRA adapter without its model"):
        open_checkpoint(step)


def copied(adapters, tmp_path, name="plain", **changes):
    shutil.copytree(adapters / name, tmp_path / "copy")
    file = tmp_path / "copy" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "ADALORA"}, "adapters of type ADALORA aren't read"),
        (
            {"peft_type": "IA3", "r": None},
            "adapters of type IA3 aren't read, .* merge it with PEFT",
        ),
        (
            {"peft_type": "PROMPT_TUNING"},
            "it changes no weights, so that there is nothing to merge",
        ),
        ({"lora_parameters": {"rank": 8}}, "is of MLX-LM, .* run `mlx_lm.fuse --adapter-path"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights: 'pissa_niter_16'"),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices: \[1\]"),
        ({"layer_replication": [[0, 2]]}, r"layer_replication"),
        ({"r": 0}, "r can't be 0"),
        ({"lora_alpha": "much"}, "lora_alpha can't be 'much'"),
        ({"lora_alpha": float("nan")}, "lora_alpha can't be nan"),
        ({"r": 8}, "lora_A.weight has rank 4, which adapter_config.json doesn't have"),
        ({"alpha_pattern": {"(a+)+": 1}}, r"alpha_pattern: '\(a\+\)\+' isn't a regular"),
        ({"alpha_pattern": {"[": 1}}, "isn't a regular expression"),
        ({"alpha_pattern": {"(a|a)" * 30 + "b": 1}}, "alpha_pattern .* can take for ever"),
        ({"alpha_pattern": {"a?" * 30 + "b": 1}}, "alpha_pattern .* can take for ever"),
        ({"alpha_pattern": {"(x[)]a|a[(])" * 30: 1}}, "isn't a regular expression of a simple"),
        ({"alpha_pattern": {".*a.*b.*": 1, ".*b.*a.*": 1}}, "can take for ever"),
        ({"alpha_pattern": {"q": float("inf")}}, "alpha_pattern.q can't be inf"),
        ({"lora_alpha": 1e308}, r"lora_alpha can't be 1e\+308"),
        ({"use_dora": True}, "8 tensors of the adapter don't fit"),
    ],
)
def test_a_configuration_that_is_not_read_is_named(adapters, base, tmp_path, changes, message):
    folder = copied(adapters, tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder, base)


def test_tensors_that_do_not_fit_the_base_are_listed(adapters, base, tmp_path):
    weights = load_file(adapters / "plain" / "adapter_model.safetensors")
    weights["base_model.model.other.lora_A.weight"] = torch.ones(4, 12)
    weights["base_model.model.head.weight"] = torch.ones(16, 12)
    weights["base_model.model.blocks.0.up.lora_A.weight"] = torch.ones(4, 13)
    folder = copied(adapters, tmp_path)
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"4 tensors of the adapter don't fit") as error:
        open_checkpoint(folder, base)
    for line in ("other.lora_A.weight  4×12", "head.weight  16×12", "0.up.lora_A.weight  4×13"):
        assert line in str(error.value)


def test_a_folder_with_a_model_and_an_adapter_is_refused(adapters, base, tmp_path):
    folder = copied(adapters, tmp_path)
    shutil.copy(adapters / "base" / "model.safetensors", folder)
    with pytest.raises(InputError, match="holds both a model and a LoRA adapter"):
        open_checkpoint(folder, base)


def test_missing_weights_of_an_adapter_are_named(adapters, base, tmp_path):
    folder = copied(adapters, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="neither of adapter_model.safetensors, adapter_model.bin"):
        open_checkpoint(folder, base)


@pytest.mark.parametrize("ranks", [True, False])
@pytest.mark.parametrize("hollow", [True, False])
def test_an_adapter_saved_without_its_weights_is_refused(adapters, base, tmp_path, ranks, hollow):
    """EasyR1 with some versions of PEFT, and DeepSpeed's ZeRO-3, write such."""
    folder = copied(adapters, tmp_path)
    keys = load_file(folder / "adapter_model.safetensors")
    weights = {key: torch.zeros(0) for key in keys} if hollow else {}
    save_file(weights, folder / "adapter_model.safetensors")
    if ranks:
        torch.save({}, tmp_path / "model_world_size_1_rank_0.pt")
    advice = f"The files of the ranks hold it: give {tmp_path}" if ranks else "Save it again with"
    with pytest.raises(InputError, match=f"holds {'8' if hollow else 'no'} tensors.*{advice}"):
        open_checkpoint(folder, base)


def test_an_adapter_that_changes_nothing_is_refused(adapters, base, tmp_path):
    folder = copied(adapters, tmp_path)
    weights = load_file(folder / "adapter_model.safetensors")
    weights = {key: value * ("lora_B" not in key) for key, value in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(
        InputError, match="copy: the adapter changes nothing, as all its B are zero"
    ):
        open_checkpoint(folder, base)


@pytest.mark.parametrize(
    ("said", "warned"), [("/runs/sft", True), ("./base", False), (None, False), ("", False)]
)
def test_an_adapter_of_another_base_is_warned_of_by_plan_merge_and_card(
    adapters, tmp_path, said, warned
):
    folder = copied(adapters, tmp_path, base_model_name_or_path=said, revision="v1")
    found = amm.plan(adapters / "base", [folder], method="mean")
    result = amm.merge(adapters / "base", [folder], output=tmp_path / "out", method="mean")
    assert [*found.problems, *found.warnings] == result.warnings
    card = (tmp_path / "out/README.md").read_text()
    words = f"{folder} says that it was trained on {said}@v1, and it is added to {adapters}/base"
    assert any(words in warning for warning in found.warnings) is warned
    assert (words in card) is warned


def test_the_base_among_fsdp_shards_is_no_question(adapters, tmp_path):
    config = "lora_adapter/adapter_config.json"
    step = save_shards(tmp_path, adapters, "plain", lambda k: True, config)
    assert open_checkpoint(step).trained_on is None
