"""Experts: the quickstart's base model, tuned on one skill each, or on several at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import torch

import amm
from examples.evidence.merging.skills import Skill, ask
from examples.quickstart import base_model
from examples.quickstart.data import write_splits
from examples.quickstart.run import Settings
from examples.quickstart.train import LIPO, Run, train
from examples.whole import whole
from lipo_verl.cpu import torch_extensions

torch_extensions.install()  # before peft imports torchvision

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402

LORA_RANK = 8
Model = base_model.Qwen2_5_VLForConditionalGeneration


@dataclass(frozen=True)
class Tuning:
    """How an expert is made: AdamW, its step rising over the first tenth, then falling to 0."""

    steps: int
    learning_rate: float
    lora: bool
    batch: int = 32


@cache
def processor() -> base_model.Qwen2_5_VLProcessor:
    """The base's, one for all experts: what is read once isn't again."""
    return base_model.Qwen2_5_VLProcessor.from_pretrained(base_model.FOLDER)


def tune(skills: Sequence[Skill], tuning: Tuning, seed: int, folder: Path) -> None:
    """Tunes the base on the skills' answers, and writes a model's folder or a LoRA adapter's."""
    torch.manual_seed(seed)
    model = Model.from_pretrained(base_model.FOLDER)
    expert: Model | PeftModel = model
    if tuning.lora:
        rank = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear")
        expert = get_peft_model(model, rank)
    optimizer = torch.optim.AdamW(
        [each for each in model.parameters() if each.requires_grad], weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, tuning.learning_rate, total_steps=tuning.steps, pct_start=0.1
    )
    rng = Random(f"tune {seed}")
    for _ in range(tuning.steps):
        asked = [ask(rng.choice(skills), rng) for _ in range(tuning.batch)]
        batch = base_model.collate(processor(), [(q.image, q.text, q.answer) for q in asked])
        _, hidden = base_model.forward(model, batch)
        optimizer.zero_grad()
        base_model.answer_loss(model, hidden, batch).backward()
        optimizer.step()
        schedule.step()
    with whole(folder) as unfinished:
        expert.save_pretrained(unfinished)
        processor().save_pretrained(unfinished)


def reinforce(task: str, seed: int, folder: Path) -> None:
    """Trains the base on one of the quickstart's tasks as `make demo` does: LIPO with verl.

    Raises TrainingFailed.
    """
    work = folder.with_name(f"{folder.name}-training")
    write_splits(work / "data", val=1, seed=seed)
    settings = (*LIPO, "trainer.logger=[file]", f"data.seed={seed}")
    run = Run(f"lipo-{task}", task, Settings.steps, settings)
    expert = train(run, base=base_model.FOLDER, data=work / "data", folder=work)
    amm.merge(base_model.FOLDER, [expert], method="mean", output=folder)
    shutil.rmtree(work)


def load(folder: Path) -> Model:
    """The model of a folder, or of an adapter's folder with the adapter in its weights."""
    if (folder / "adapter_config.json").exists():
        base = Model.from_pretrained(base_model.FOLDER)
        return PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
    return Model.from_pretrained(folder).eval()
