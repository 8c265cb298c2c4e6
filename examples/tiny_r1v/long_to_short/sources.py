"""The two models that are merged: one answers at once, the other explains itself at length.

Both come from the quickstart's base model, which answers at every length, by a short supervised
fine-tuning on worked answers of a single length.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from examples.quickstart import base_model
from examples.quickstart.base_model import Recipe
from examples.quickstart.tasks import MAX_SENTENCES

SENTENCES = {"quick": 0, "long": MAX_SENTENCES}
"""How many sentences explain an answer, for each of the two models."""


def recipe(sentences: int, steps: int, seed: int) -> Recipe:
    """A fine-tuning on correct answers that are all explained in so many sentences."""
    return Recipe(
        direct_steps=0,
        worked_steps=steps,
        learning_rate=5e-4,
        warmup=max(1, steps // 10),
        decay=max(1, steps // 2),
        seed=seed,
        sentence_weights=tuple(float(n == sentences) for n in range(MAX_SENTENCES + 1)),
        slips=0.0,
    )


def fine_tune(base: Path, folder: Path, training: Recipe) -> Iterator[float]:
    """Trains a copy of ``base`` and saves it as ``folder``; yields the loss of each step.

    The folder appears whole, after the last step.
    """
    torch.manual_seed(training.seed)
    model = base_model.Qwen2_5_VLForConditionalGeneration.from_pretrained(base)
    processor = base_model.Qwen2_5_VLProcessor.from_pretrained(base)
    yield from base_model.train(model, processor, training)
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    unfinished.rename(folder)
