"""Shared fixtures; the helpers themselves are in `pico_models.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from pico_models import pico_weights, save_folder

torch.set_num_threads(1)
ROOT = str(Path(__file__).parents[2])
os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
settings.register_profile("amm", deadline=None, max_examples=10, derandomize=True)
settings.load_profile("amm")


@pytest.fixture
def pico(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Folders of a bf16 base and of two float32 experts with deltas of RMS 1e-2."""
    base = {k: v.bfloat16() for k, v in pico_weights(0).items()}
    experts = []
    for seed in (1, 2):
        delta = pico_weights(seed, 1e-2)
        weights = {k: base[k].float() + delta[k] for k in base}
        experts.append(save_folder(tmp_path / f"expert{seed}", weights))
    return save_folder(tmp_path / "base", base), experts
