"""Tiny models to calibrate with."""

from __future__ import annotations

import pytest
import torch

from lipo_verl.cpu import torch_extensions

torch_extensions.install()  # torchvision's operators, which its build for CPUs lacks here

from transformers import (  # noqa: E402
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from examples.quickstart.base_model import FOLDER  # noqa: E402


@pytest.fixture(scope="session")
def vision_model():
    """The quickstart's model and processor, shared: don't change it."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER).eval()
    return model.requires_grad_(False), Qwen2_5_VLProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="session")
def other_folder(vision_model, tmp_path_factory):
    """A model near the quickstart's."""
    folder = tmp_path_factory.mktemp("other")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.1 * parameter.std().nan_to_num() * noise
    model.save_pretrained(folder)
    vision_model[1].save_pretrained(folder)
    return folder
