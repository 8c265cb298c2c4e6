"""A run and its setting in the words of verl 0.9 and of EasyR1: written as overrides, and read."""

from __future__ import annotations

import math

from omegaconf import DictConfig, OmegaConf

from examples.tiny_r1v.size.estimate import Run, Setting

IMAGE, MEAN_PROMPT, MEAN_RESPONSE = 1280, 700, 250
"""Tokens that a configuration does not say: docs/recipe/sizing.md."""

KEYS: dict[str, dict[str, str | bool]] = {
    "verl": {
        "data.train_batch_size": "batch",
        "data.max_prompt_length": "prompt",
        "data.max_response_length": "response",
        "actor_rollout_ref.actor.use_dynamic_bsz": True,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": "micro_tokens",
        "actor_rollout_ref.actor.fsdp_config.param_offload": "param_offload",
        "actor_rollout_ref.actor.fsdp_config.optimizer_offload": "optimizer_offload",
        "actor_rollout_ref.actor.fsdp_config.offload_policy": "cpu_offload",
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        "actor_rollout_ref.model.use_fused_kernels": "fused",
        "actor_rollout_ref.model.lora_rank": "lora_rank",
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": "micro_tokens",
        "actor_rollout_ref.rollout.n": "rollouts",
        "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": "micro_tokens",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": "tensor_parallel",
        "actor_rollout_ref.rollout.gpu_memory_utilization": "utilization",
    },
    "easyr1": {
        "data.rollout_batch_size": "batch",
        "data.max_prompt_length": "prompt",
        "data.max_response_length": "response",
        "worker.actor.micro_batch_size_per_device_for_update": "micro_sequences",
        "worker.actor.micro_batch_size_per_device_for_experience": "micro_sequences",
        "worker.actor.model.enable_gradient_checkpointing": True,
        "worker.actor.model.lora.rank": "lora_rank",
        "worker.actor.offload.offload_params": "param_offload",
        "worker.actor.offload.offload_optimizer": "optimizer_offload",
        "worker.actor.fsdp.enable_cpu_offload": "cpu_offload",
        "worker.ref.fsdp.enable_cpu_offload": "reference",
        "worker.rollout.n": "rollouts",
        "worker.rollout.tensor_parallel_size": "tensor_parallel",
        "worker.rollout.gpu_memory_utilization": "utilization",
    },
}
"""What of a run or a setting each key has; of several keys for one, the first is read. EasyR1
counts micro batches in full sequences."""


def overrides(framework: str, run: Run, setting: Setting) -> list[str]:
    """The settings on a framework's command line; EasyR1 0.3.2 has no key for LoRA's rank."""
    values = {**vars(run), **vars(setting)}
    values["micro_sequences"] = max(1, setting.micro_tokens // run.sequence)
    return [
        f"{key}={values.get(name, name)}".lower()
        for key, name in KEYS[framework].items()
        if name != "lora_rank" or run.lora_rank
    ]


def read(framework: str, config: DictConfig) -> tuple[Run, Setting]:
    """What a composed configuration of the framework asks for."""
    found = {
        name: OmegaConf.select(config, key, default=False)
        for key, name in reversed(KEYS[framework].items())
    }
    trainer, algorithm = config.trainer, config.algorithm
    if framework == "verl":
        found["steps"] = trainer.total_training_steps
        in_loss = config.actor_rollout_ref.actor.use_kl_loss
        found["reference"] = in_loss or algorithm.use_kl_in_reward
    else:
        found["steps"], found["reference"] = trainer.max_steps, not algorithm.disable_kl
        sequence = found["prompt"] + found["response"]
        found["micro_tokens"] = found["micro_sequences"] * sequence
    run = Run(
        gpus=trainer.n_gpus_per_node * trainer.nnodes,
        image=min(IMAGE, found["prompt"]),
        mean_prompt=MEAN_PROMPT,
        mean_response=MEAN_RESPONSE,
        **{name: found[name] for name in Run.__dataclass_fields__ if name in found},
    )
    return run, Setting(**{name: found[name] for name in Setting.__dataclass_fields__})


def checkpoints(config: DictConfig, steps: int) -> int:
    """How many a run of either framework saves; its last step is saved in any case."""
    return math.ceil(steps / config.trainer.save_freq) if config.trainer.save_freq > 0 else 0
