"""Sizing: parameters against transformers, memory against torch, time against torch's counter."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from examples.quickstart.base_model import (
    FOLDER,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from examples.tiny_r1v.size import __main__ as command
from examples.tiny_r1v.size import choice, estimate, frameworks
from examples.tiny_r1v.size.estimate import GB, GPUS, Run, Setting
from examples.tiny_r1v.size.shapes import BUILT_IN, SizeError, from_config, shape

PAPER = Run(
    gpus=8,
    batch=512,
    rollouts=6,
    prompt=2048,
    response=2048,
    image=1280,
    mean_prompt=700,
    mean_response=250,
    reference=True,
    steps=120,
)
PLAIN = Setting(8192, False, False, False, 1, 0.5)


def config_of_2025(layers, hidden, intermediate, heads, key_value_heads, vocabulary, tied):
    """What a config.json says, with the language model's keys at the top."""
    return {
        "model_type": "qwen2_5_vl",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "out_hidden_size": hidden,
        },
    }


PUBLISHED = {
    "3b": config_of_2025(36, 2048, 11008, 16, 2, 151936, True),
    "7b": config_of_2025(28, 3584, 18944, 28, 4, 152064, False),
}


def with_adapters(model, rank):
    """The model as verl trains it: with LoRA on all linear layers, or without a rank as it is."""
    from peft import LoraConfig, get_peft_model  # once torchvision is kept out: base_model.py

    if not rank:
        return model
    model.enable_input_require_grads()
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules="all-linear")
    return get_peft_model(model, config)


def adapters_of(model, rank):
    """How many parameters peft trains."""
    with torch.device("meta"):
        return with_adapters(model, rank).num_parameters(only_trainable=True)


@pytest.mark.parametrize(("name", "published"), [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_the_built_in_shapes_have_the_parameters_that_transformers_builds(name, published):
    config = PUBLISHED[name]
    text = {
        key: value for key, value in config.items() if key not in ("vision_config", "model_type")
    }
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config=text,
                vision_config=config["vision_config"],
                tie_word_embeddings=config["tie_word_embeddings"],
            )
        )
    assert BUILT_IN[name] == from_config(config, Path("config.json"))
    assert BUILT_IN[name].parameters == model.num_parameters() == published
    assert BUILT_IN[name].vision_parameters == model.model.visual.num_parameters()
    assert BUILT_IN[name].adapters(32) == adapters_of(model, 32)


QWEN3_TEXT = {
    **{"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936},
}
QWEN3_VISION = {
    **{"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16},
    **{"out_hidden_size": 2560, "num_position_embeddings": 2304},
    "deepstack_visual_indexes": [5, 11, 17],
}


@pytest.mark.parametrize("tied", [True, False])
def test_a_qwen3_vl_has_the_parameters_that_transformers_builds(tied):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        text_config=QWEN3_TEXT, vision_config=QWEN3_VISION, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    found = from_config(config.to_dict(), Path("config.json"))
    assert found.parameters == model.num_parameters()
    assert found.vision_parameters == model.model.visual.num_parameters()
    layer = model.model.language_model.layers[0]
    assert found.layer_parameters == sum(each.numel() for each in layer.parameters())
    assert found.adapters(8) == adapters_of(model, 8)


def test_a_folder_counts_as_many_parameters_as_its_weights_have():
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        numbers = sum(weights.get_tensor(key).numel() for key in weights.keys())
    assert shape(str(FOLDER)).parameters == numbers


@pytest.mark.parametrize("name", ["3b", "7B"])
def test_a_hub_id_has_the_shape_of_its_model(name):
    assert shape(f"Qwen/Qwen2.5-VL-{name.upper()}-Instruct") == shape(name)


def test_a_folder_without_a_config_is_said(tmp_path):
    with pytest.raises(SizeError, match="There is no .*config.json.*3b, 7b"):
        shape(str(tmp_path))


def test_another_kind_of_model_is_refused(tmp_path):
    Path(tmp_path, "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(SizeError, match="is of a llama"):
        shape(str(tmp_path))


def test_a_missing_key_is_named():
    config = {**PUBLISHED["3b"]}
    del config["num_key_value_heads"]
    with pytest.raises(SizeError, match="some.json has no 'num_key_value_heads'"):
        from_config(config, Path("some.json"))


@pytest.mark.parametrize("rank", [0, 4])
def test_the_state_is_what_torch_holds_after_a_step_of_adam(rank):
    model = with_adapters(Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER), rank)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    weights, gradients, moments = (
        sum(4 * each.numel() for each in tensors)
        for tensors in (
            parameters,
            [each.grad for each in parameters if each.grad is not None],
            [v for state in optimizer.state.values() for v in state.values() if v.ndim > 0],
        )
    )
    tiny, run = shape(str(FOLDER)), replace(PAPER, gpus=1, lora_rank=rank)
    memory = estimate.training_memory(tiny, run, PLAIN)
    assert (memory.weights, memory.gradients, memory.moments) == (weights, gradients, moments)
    idle = estimate.generation_memory(tiny, run, PLAIN, 80 * GB)
    assert (idle.weights, idle.moments) == (weights, moments)
    assert estimate.checkpoint_bytes(tiny, rank) == weights + moments


def test_the_cache_is_as_large_as_that_of_transformers():
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER).bfloat16()
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.arange(11).unsqueeze(0), past_key_values=cache, use_cache=True)
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert estimate.cache_bytes_per_token(shape(str(FOLDER)), 1) * 11 == 2 * numbers


def test_more_vllm_gpus_than_key_value_heads_save_no_cache():
    three = BUILT_IN["3b"]
    assert estimate.cache_bytes_per_token(three, 4) == estimate.cache_bytes_per_token(three, 2)


def test_operations_of_the_language_model_agree_with_torchs_counter():
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER, attn_implementation="eager")
    tokens = 64
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(tokens).unsqueeze(0), use_cache=False)
    tiny = shape(str(FOLDER))
    # torch counts no causal saving, and no picture was there to look at.
    unseen = 2 * tokens * tiny.vision_parameters
    causal = 2 * tiny.layers * tiny.hidden * tokens * tokens
    ours = estimate.forward_flops(tiny, tokens, tokens) - unseen + causal
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.01)


def test_adapters_spare_an_update_the_gradients_that_torchs_counter_misses(monkeypatch):
    monkeypatch.setattr(estimate, "LAYER_LATENCY", 0)
    tiny, counted, estimated = shape(str(FOLDER)), [], []
    run = replace(PAPER, gpus=1, batch=1, rollouts=1, mean_prompt=32, mean_response=32)
    for rank in (0, 1):
        model = with_adapters(Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER), rank)
        with FlopCounterMode(display=False) as counter:
            model(torch.arange(run.tokens).unsqueeze(0), use_cache=False).logits.sum().backward()
        counted.append(counter.get_total_flops())
        asked = replace(run, lora_rank=rank)
        seconds = estimate.times(tiny, asked, PLAIN, GPUS["a100-80"], 20 * GB).update
        estimated.append(seconds * estimate.MFU * GPUS["a100-80"].flops)
    unseen = 2 * run.tokens * tiny.vision_parameters  # no picture was there to look at
    spared = estimated[0] - estimated[1] - unseen
    assert counted[0] - counted[1] == pytest.approx(spared, rel=0.1)


def test_logits_of_8192_tokens_take_5_gb_in_fp32():
    logits = estimate.training_memory(BUILT_IN["3b"], PAPER, PLAIN).logits
    assert logits * 4 / estimate.LOGIT_BYTES == pytest.approx(5 * GB, rel=0.01)


@given(gpus=st.sampled_from([1, 2, 4, 8, 16, 64]))
def test_twice_the_gpus_halve_what_is_sharded_and_nothing_else(gpus):
    three = BUILT_IN["3b"]
    one = estimate.training_memory(three, replace(PAPER, gpus=gpus), PLAIN)
    two = estimate.training_memory(three, replace(PAPER, gpus=2 * gpus), PLAIN)
    for part in ("weights", "gradients", "moments", "step"):
        assert getattr(two, part) == getattr(one, part) / 2
    for part in ("gathered", "activations", "logits", "reserved"):
        assert getattr(two, part) == getattr(one, part)


@pytest.mark.parametrize("rank", [0, 32])
def test_what_leaves_the_gpu_is_in_the_nodes_memory(rank):
    three, alone = BUILT_IN["3b"], replace(PAPER, gpus=1, reference=False, lora_rank=rank)
    resident = estimate.generation_memory(three, alone, PLAIN, 80 * GB)
    there = estimate.host_bytes(three, alone, PLAIN)
    for change in ({"optimizer_offload": True}, {"param_offload": True}):
        setting = replace(PLAIN, **change)
        memory = estimate.generation_memory(three, alone, setting, 80 * GB)
        moved = resident.total - memory.total
        assert moved == pytest.approx(estimate.host_bytes(three, alone, setting) - there) != 0


def test_twice_the_gpus_take_half_the_computing_time():
    three = BUILT_IN["3b"]
    one, two = (
        estimate.times(three, replace(PAPER, gpus=gpus), PLAIN, GPUS["h100"], 20 * GB)
        for gpus in (4, 8)
    )
    assert two.update == pytest.approx(one.update / 2, rel=0.01)
    assert two.log_probs == pytest.approx(one.log_probs / 2, rel=0.01)
    assert two.step > one.step / 2


def test_an_update_costs_six_operations_a_parameter_and_token_and_two_to_recompute(monkeypatch):
    monkeypatch.setattr(estimate, "LAYER_LATENCY", 0)
    three = BUILT_IN["3b"]
    short = replace(PAPER, mean_prompt=1, mean_response=1)
    seconds = estimate.times(three, short, PLAIN, GPUS["a100-80"], 20 * GB).update
    operations = seconds * PAPER.gpus * estimate.MFU * GPUS["a100-80"].flops
    assert operations / short.tokens / three.parameters == pytest.approx(8, rel=0.001)


@pytest.mark.parametrize(
    "model, gpu, sequences, throughput, seconds",
    [
        ("3b", "h100", 1, 1800, 120),
        ("7b", "h100", 1, 1600, 145),
        ("7b", "h100", 4, 2000, 120),
        ("7b", "l20", 1, 410, 580),
    ],
)
def test_steps_take_as_long_as_easyr1_reports(model, gpu, sequences, throughput, seconds):
    """Its assets/baselines.md of release 0.3.2, Qwen2.5-VL in AMP on 8 GPUs: 512 prompts of 5
    responses, 2048 + 2048 tokens, TP 2; tokens per second and GPU, seconds per step."""
    mean = throughput * 8 * seconds / (512 * 5)
    run = replace(PAPER, rollouts=5, mean_prompt=mean * 0.55, mean_response=mean * 0.45)
    setting = Setting(sequences * run.sequence, True, True, False, 2, 0.6)
    found = choice.fit(BUILT_IN[model], run, setting, GPUS[gpu])
    times = estimate.times(BUILT_IN[model], run, setting, GPUS[gpu], found.generation.cache)
    assert times.step == pytest.approx(seconds, rel=0.15)


def test_nodes_wait_for_the_network_where_it_takes_longer_than_computing(monkeypatch):
    three, two_nodes = BUILT_IN["3b"], replace(PAPER, gpus=16)

    def update():
        return estimate.times(three, two_nodes, PLAIN, GPUS["h100"], 20 * GB).update

    fast = update()
    monkeypatch.setattr(estimate, "NETWORK", 1e9)
    micro_batches = -(-two_nodes.tokens // (16 * PLAIN.micro_tokens))
    assert update() == pytest.approx(8 * three.parameters / 1e9 * micro_batches)
    assert fast < update()


def test_fused_kernels_leave_the_logits_of_512_tokens():
    three = BUILT_IN["3b"]
    plain, fused = (
        estimate.training_memory(three, replace(PAPER, fused=fused), PLAIN)
        for fused in (False, True)
    )
    assert fused.logits == plain.logits * 512 / PLAIN.micro_tokens
    assert replace(fused, logits=plain.logits) == plain


def test_a_checkpoint_is_three_times_the_fp32_weights():
    three = BUILT_IN["3b"]
    assert estimate.checkpoint_bytes(three) == 3 * 4 * three.parameters


@given(
    gpus=st.sampled_from([1, 2, 4, 8, 16]),
    memory=st.sampled_from([24, 40, 48, 80, 141]),
    response=st.sampled_from([512, 2048, 8192]),
    model=st.sampled_from(["3b", "7b"]),
)
def test_what_is_chosen_fits_and_holds_the_longest_sequence(gpus, memory, response, model):
    run = replace(PAPER, gpus=gpus, response=response)
    found = choice.choose(BUILT_IN[model], run, replace(GPUS["a100-80"], memory=memory * GB))
    if found:
        assert found.training.total <= memory * GB
        assert found.generation.total <= memory * GB
        assert found.setting.micro_tokens >= run.sequence
        assert gpus % found.setting.tensor_parallel == 0


def test_offloading_is_chosen_only_where_it_is_needed():
    roomy = choice.choose(BUILT_IN["3b"], PAPER, GPUS["a100-80"]).setting
    assert not (roomy.optimizer_offload or roomy.param_offload or roomy.cpu_offload)
    tight = choice.choose(BUILT_IN["3b"], replace(PAPER, gpus=1), GPUS["a100-40"]).setting
    assert tight.cpu_offload


def test_every_remedy_is_one():
    run, gpu = replace(PAPER, gpus=1, response=16384), GPUS["a100-40"]
    seven = BUILT_IN["7b"]
    assert choice.choose(seven, run, gpu) is None
    lines = choice.remedies(seven, run, gpu)
    assert any("training takes" in line for line in lines)
    for line in lines:
        option, _, value = line.removesuffix(" fits").partition(" ")
        if option == "--response":
            assert choice.choose(seven, replace(run, response=int(value)), gpu)
        elif option == "--gpus":
            assert choice.choose(seven, replace(run, gpus=int(value)), gpu)
        elif option == "--gpu-memory":
            assert choice.choose(seven, run, replace(gpu, memory=command.gigabytes(value)))


def test_verls_overrides_are_keys_of_its_configuration_with_values_of_their_type():
    (verl,) = find_spec("verl").submodule_search_locations
    config = OmegaConf.load(Path(verl, "trainer/config/_generated_ppo_trainer.yaml"))
    for override in frameworks.overrides("verl", replace(PAPER, lora_rank=32), PLAIN):
        key, _, value = override.partition("=")
        known = OmegaConf.select(config, key, throw_on_missing=False, default="absent")
        assert known != "absent", key
        if isinstance(known, bool):
            assert value in ("true", "false"), override


@pytest.mark.parametrize("framework", ["verl", "easyr1"])
@pytest.mark.parametrize("reference", [True, False])
def test_what_is_written_as_overrides_is_read_back(framework, reference):
    run = replace(PAPER, gpus=6, batch=96, rollouts=4, response=1024, steps=7, lora_rank=16)
    run = replace(run, reference=reference)
    setting = Setting(4 * run.sequence, True, False, True, 2, 0.45)
    machine = ["trainer.n_gpus_per_node=3", "trainer.nnodes=2"]
    if framework == "verl":
        (verl,) = find_spec("verl").submodule_search_locations
        host = OmegaConf.load(Path(verl, "trainer/config/_generated_ppo_trainer.yaml"))
        machine += ["trainer.total_training_steps=7"]
        machine += [f"actor_rollout_ref.actor.use_kl_loss={reference}"]
    else:
        host = OmegaConf.create()
        machine += ["trainer.max_steps=7", f"algorithm.disable_kl={not reference}"]
    written = frameworks.overrides(framework, run, setting)
    config = OmegaConf.merge(host, OmegaConf.from_dotlist([*written, *machine]))
    assert frameworks.read(framework, config) == (run, setting)


def test_the_command_prints_settings_where_it_fits(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["size", "--gpus", "8", "--gpu", "a100-80"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "GPU hours" in printed
    assert "worker.rollout.n=6" in printed


def test_the_command_fails_where_it_does_not_fit(monkeypatch, capsys):
    arguments = "--model 7b --gpus 1 --gpu-memory 24GB --response 16384".split()
    monkeypatch.setattr(sys, "argv", ["size", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == command.DOES_NOT_FIT
    assert "It does not fit." in capsys.readouterr().out


def test_pictures_beyond_the_prompt_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["size", "--image", "3000"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == command.BAD_INPUT
    assert "--image 3000 is more than --prompt 2048" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["80", "80GB", "80 gb", "80.0GB"])
def test_memory_is_read_in_gigabytes(text):
    assert command.gigabytes(text) == 80e9
