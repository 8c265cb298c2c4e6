"""Models as transformers loads them, and what they get for a question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amm._requirements import require
from amm.calibration.questions import Question
from amm.checkpoints.hf import has_weights
from amm.checkpoints.hub import local_folder
from amm.errors import InputError


def load(path: str | Path, device: str) -> tuple[nn.Module, Any]:
    """A model in float32, and its processor; no code of its folder runs.

    Args:
        path: a Hugging Face folder, or an id on the Hub.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ImportError: the extra `calibrate` isn't installed.
        InputError: it isn't a whole model, or transformers can't load it.
    """
    require("calibrate")
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
    )

    folder = local_folder(path)
    if not has_weights(folder):
        raise InputError(
            f"a calibration runs the model, and {folder} has no weights as transformers saves them;"
            " for FSDP shards or an adapter, merge it as the only expert first (method: mean) and"
            " give the result."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
        sees = hasattr(config, "vision_config")
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        model = kind.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        return model.to(device), AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"{folder} can't be loaded by transformers: {error}") from None


def encode(
    processor: Any, question: Question, response: str | None, device: str
) -> Mapping[str, Tensor]:
    """What a model gets for a question, up to where it would answer or with an answer."""
    return processor.apply_chat_template(
        question.chat(response),
        add_generation_prompt=response is None,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(device)
