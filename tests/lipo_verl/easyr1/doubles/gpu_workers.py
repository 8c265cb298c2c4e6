"""The workers of EasyR1's trainer without a model: random answers, and a record of each update."""

import os

import numpy as np
import torch
from verl.protocol import DataProto
from verl.utils import torch_functional


def init_workers(trainer):
    """In place of RayPPOTrainer.init_workers, which asks Ray for GPUs."""
    trainer.actor_rollout_ref_wg = Workers(trainer.config, trainer.tokenizer)


class Workers:
    world_size = 1

    def __init__(self, config, tokenizer):
        self.config, self.eos = config, tokenizer.eos_token_id
        self.words = torch.tensor(tokenizer.convert_tokens_to_ids(["right", "wrong"]))
        self.random = torch.Generator().manual_seed(0)
        self.updates = 0

    def prepare_rollout_engine(self):
        """Nothing to prepare."""

    release_rollout_engine = prepare_rollout_engine

    def generate_sequences(self, prompts):
        n = prompts.meta_info.get("n", self.config.worker.rollout.n)
        budget = self.config.data.max_response_length
        prompt, mask = (
            prompts.batch[key].repeat_interleave(n, 0) for key in ("input_ids", "attention_mask")
        )
        answers = self.words[torch.randint(2, (len(prompt), budget), generator=self.random)]
        length = torch.randint(1, budget + 3, (len(prompt), 1), generator=self.random)
        answers[torch.arange(budget) == length - 1] = self.eos  # beyond the budget: cut
        answer_mask = torch_functional.get_response_mask(answers, self.eos, dtype=mask.dtype)
        tensors = {
            "prompts": prompt,
            "responses": answers,
            "input_ids": torch.cat([prompt, answers], 1),
            "attention_mask": torch.cat([mask, answer_mask], 1),
            "response_mask": answer_mask,
            "position_ids": torch.cat([mask, answer_mask], 1).cumsum(1),
        }
        return DataProto.from_dict(tensors=tensors, meta_info=prompts.meta_info)

    def compute_log_probs(self, batch):
        return DataProto.from_dict(
            tensors={"old_log_probs": torch.zeros_like(batch.batch["responses"]).float()}
        )

    def compute_ref_log_probs(self, batch):
        return DataProto.from_dict(
            tensors={"ref_log_probs": torch.zeros_like(batch.batch["responses"]).float()}
        )

    def update_actor(self, batch):
        self.updates += 1
        record = {
            key: batch.batch[key]
            for key in ("token_level_rewards", "response_mask", "advantages", "returns")
        } | {"uid": batch.non_tensor_batch["uid"].tolist(), "process": os.getpid()}
        folder = self.config.trainer.save_checkpoint_path
        torch.save(record, os.path.join(folder, f"update_{self.updates}.pt"))
        return DataProto.from_dict(
            tensors={"done": torch.ones(1)}, non_tensors={"actor/loss": np.array([0.0])}
        )

    def save_checkpoint(self, path, save_model_only):
        os.makedirs(path)
