"""How many questions of each skill a model answers rightly, and in how many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from examples.evidence.merging.experts import Model, processor
from examples.evidence.merging.skills import Skill, ask
from examples.quickstart import base_model

MAX_TOKENS = 64


@dataclass(frozen=True)
class Marks:
    """Of S skills."""

    accuracy: list[float]
    """The share of answers that are right."""
    tokens: list[float]
    """Mean of the answers, the end-of-turn token included."""


class Examination:
    """Questions of some skills, the same ones for every model."""

    def __init__(self, skills: Sequence[Skill], questions: int, seed: int) -> None:
        """
        questions: of each skill
        """
        self.asked = [
            [ask(skill, rng) for _ in range(questions)]
            for number, skill in enumerate(skills)
            for rng in [Random(f"examine {seed} {number}")]
        ]
        asked = [question for each in self.asked for question in each]
        self._inputs = processor()(
            text=[base_model.prompt(processor(), question.text) for question in asked],
            images=[question.image for question in asked],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )

    @torch.no_grad()
    def marks(self, model: Model, skills: Sequence[int]) -> Marks:
        """Of some of the skills; the tokens that the model finds likeliest are its answers."""
        asked = [question for skill in skills for question in self.asked[skill]]
        inputs = {
            name: values.unflatten(0, (len(self.asked), -1))[list(skills)].flatten(0, 1)
            for name, values in self._inputs.items()
        }
        said = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        said = said[:, inputs["input_ids"].shape[1] :]
        tokenizer = processor().tokenizer
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        right = [question.right(text) for question, text in zip(asked, texts, strict=True)]
        tokens = (said != tokenizer.pad_token_id).sum(dim=1).numpy()
        return Marks(
            np.reshape(right, (len(skills), -1)).mean(axis=1).round(4).tolist(),
            np.reshape(tokens, (len(skills), -1)).mean(axis=1).round(2).tolist(),
        )
