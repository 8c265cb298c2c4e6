"""What every checkpoint reader offers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


class Checkpoint(Protocol):
    """Read access to one model's weights, a tensor at a time.

    Attributes:
        path: the folder that the weights are in.
        files_folder: the folder with configuration, tokenizer and processor, or None.
    """

    path: Path
    files_folder: Path | None

    def keys(self) -> list[str]:
        """Names of the tensors, in a fixed order."""
        ...

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        ...

    def dtype(self, key: str) -> torch.dtype:
        """Dtype in which it is stored."""
        ...

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """The tensor, or the given rows of it, in its stored dtype, on the CPU.

        Args:
            key: its name.
            rows: a slice of the first dimension without a step; None reads all, and is the only
                choice for a tensor without dimensions.

        Raises:
            InputError: the file is damaged or doesn't hold it.
        """
        ...

    def describe(self) -> str:
        """One line that says in words what was found."""
        ...


def missing_weights(path: Path, looked_for: str) -> str:
    """The message for a folder without readable weights: what is there instead, what to do."""
    if not path.exists():
        return f"{path} doesn't exist; check the path."
    if not path.is_dir():
        return f"{path} is a file; give the folder that the weights are in."
    names = sorted(child.name for child in path.iterdir())
    steps = [name for name in names if name.startswith("global_step_")]
    if "adapter_config.json" in names:
        advice = "It is a LoRA adapter; merge it into its base model first, then give that folder."
    elif steps:
        advice = f"Give one of its steps: {', '.join(steps)}."
    elif any(name.endswith(".bin") for name in names):
        advice = "Its .bin files are pickles, which aren't read; save it as safetensors."
    else:
        shown = ", ".join(names[:10]) or "nothing"
        advice = f"It has {shown}{' …' if len(names) > 10 else ''}."
    return f"no weights in {path}: looked for {looked_for}. {advice}"
