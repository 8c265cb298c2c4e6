"""A run and its setting in the words of verl 0.9 and of EasyR1: written as overrides, and read."""

from __future__ import annotations

import math

from omegaconf import DictConfig, OmegaConf

from examples.tiny_r1v.size.estimate import Run, Setting

IMAGE, MEAN_PROMPT, MEAN_RESPONSE = 1280, 700, 250
"""Tokens that a configuration does not say: docs/recipe/sizing.md."""


def verl(run: Run, setting: Setting) -> list[str]:
    """The settings as overrides of verl 0.9."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return [
        f"data.train_batch_size={run.batch}",
        f"data.max_prompt_length={run.prompt}",
        f"data.max_response_length={run.response}",
        f"{actor}.use_dynamic_bsz=true",
        f"{actor}.ppo_max_token_len_per_gpu={setting.micro_tokens}",
        f"{actor}.fsdp_config.param_offload={_yes(setting.param_offload)}",
        f"{actor}.fsdp_config.optimizer_offload={_yes(setting.optimizer_offload)}",
        f"{actor}.fsdp_config.offload_policy={_yes(setting.cpu_offload)}",
        "actor_rollout_ref.model.enable_gradient_checkpointing=true",
        f"actor_rollout_ref.model.use_fused_kernels={_yes(run.fused)}",
        f"actor_rollout_ref.ref.log_prob_max_token_len_per_gpu={setting.micro_tokens}",
        f"{rollout}.n={run.rollouts}",
        f"{rollout}.log_prob_max_token_len_per_gpu={setting.micro_tokens}",
        f"{rollout}.tensor_model_parallel_size={setting.tensor_parallel}",
        f"{rollout}.gpu_memory_utilization={setting.utilization}",
    ]


def easyr1(run: Run, setting: Setting) -> list[str]:
    """The settings as overrides of EasyR1, whose micro batches are counted in full sequences."""
    actor, rollout = "worker.actor", "worker.rollout"
    sequences = max(1, setting.micro_tokens // run.sequence)
    return [
        f"data.rollout_batch_size={run.batch}",
        f"data.max_prompt_length={run.prompt}",
        f"data.max_response_length={run.response}",
        f"{actor}.micro_batch_size_per_device_for_update={sequences}",
        f"{actor}.micro_batch_size_per_device_for_experience={sequences}",
        f"{actor}.model.enable_gradient_checkpointing=true",
        f"{actor}.offload.offload_params={_yes(setting.param_offload)}",
        f"{actor}.offload.offload_optimizer={_yes(setting.optimizer_offload)}",
        f"{actor}.fsdp.enable_cpu_offload={_yes(setting.cpu_offload)}",
        f"worker.ref.fsdp.enable_cpu_offload={_yes(run.reference)}",
        f"{rollout}.n={run.rollouts}",
        f"{rollout}.tensor_parallel_size={setting.tensor_parallel}",
        f"{rollout}.gpu_memory_utilization={setting.utilization}",
    ]


def read_verl(config: DictConfig) -> tuple[Run, Setting]:
    """What a composed configuration of verl asks for."""
    hosts, trainer = config.actor_rollout_ref, config.trainer
    actor, rollout = hosts.actor, hosts.rollout
    run = Run(
        gpus=trainer.n_gpus_per_node * trainer.nnodes,
        batch=config.data.train_batch_size,
        rollouts=rollout.n,
        prompt=config.data.max_prompt_length,
        response=config.data.max_response_length,
        image=min(IMAGE, config.data.max_prompt_length),
        mean_prompt=MEAN_PROMPT,
        mean_response=MEAN_RESPONSE,
        reference=actor.use_kl_loss or config.algorithm.use_kl_in_reward,
        steps=trainer.total_training_steps,
        fused=hosts.model.use_fused_kernels,
    )
    setting = Setting(
        micro_tokens=actor.ppo_max_token_len_per_gpu,
        optimizer_offload=actor.fsdp_config.optimizer_offload,
        param_offload=actor.fsdp_config.param_offload,
        cpu_offload=actor.fsdp_config.offload_policy,
        tensor_parallel=rollout.tensor_model_parallel_size,
        utilization=rollout.gpu_memory_utilization,
    )
    return run, setting


def read_easyr1(config: DictConfig) -> tuple[Run, Setting]:
    """What a file of the recipe asks of EasyR1."""
    data, actor, rollout = config.data, config.worker.actor, config.worker.rollout
    run = Run(
        gpus=config.trainer.n_gpus_per_node * config.trainer.nnodes,
        batch=data.rollout_batch_size,
        rollouts=rollout.n,
        prompt=data.max_prompt_length,
        response=data.max_response_length,
        image=min(IMAGE, data.max_prompt_length),
        mean_prompt=MEAN_PROMPT,
        mean_response=MEAN_RESPONSE,
        reference=not config.algorithm.disable_kl,
        steps=config.trainer.max_steps,
    )
    setting = Setting(
        micro_tokens=actor.micro_batch_size_per_device_for_update * run.sequence,
        optimizer_offload=actor.offload.offload_optimizer,
        param_offload=actor.offload.offload_params,
        cpu_offload=OmegaConf.select(actor, "fsdp.enable_cpu_offload", default=False),
        tensor_parallel=rollout.tensor_parallel_size,
        utilization=rollout.gpu_memory_utilization,
    )
    return run, setting


def checkpoints(config: DictConfig, steps: int) -> int:
    """How many a run of either framework saves; its last step is saved in any case."""
    return math.ceil(steps / config.trainer.save_freq) if config.trainer.save_freq > 0 else 0


def _yes(value: bool) -> str:
    return str(value).lower()
