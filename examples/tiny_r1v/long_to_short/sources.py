"""The two models that are merged: one answers at once, the other explains itself at length.

Both come from the quickstart's base model, which answers in several styles, by a short supervised
fine-tuning on answers in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from examples.quickstart import base_model
from examples.quickstart.base_model import Recipe
from examples.quickstart.tasks import STYLES
from examples.whole import whole

STYLE = {"quick": "guess", "long": "long"}
"""Of `tasks.STYLES`, for each of the two models."""


def recipe(style: str, steps: int, seed: int) -> Recipe:
    """A fine-tuning on correct answers in one style."""
    return Recipe(
        bare_steps=0,
        styled_steps=steps,
        learning_rate=5e-4,
        warmup=max(1, steps // 10),
        decay=max(1, steps // 2),
        seed=seed,
        style_weights=tuple(float(each == style) for each in STYLES),
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
    with whole(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
