"""Saves more often where the time of a run on a machine is limited, and every step at its end.

verl 0.9's trainer (v1) saves every ``trainer.save_freq`` steps and knows no other occasion: neither
a signal nor ``trainer.esi_redundant_time``, which its older trainer reads. It does keep a callback,
``trainer.checkpoint_callback_class``, and reads ``save_freq`` anew in every step.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

OFTEN = 20
"""Steps between checkpoints before that, in runs that save less often."""

EXTRA = "extra"
"""A file in a checkpoint that was saved out of turn: it is removed when a later one is whole."""


class SaveFrom(CheckpointCallback):
    """From ``recipe.save_from`` on, in seconds since 1970, each step is saved."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.every = config.trainer.save_freq
        if self.every % OFTEN == 0:
            config.trainer.save_freq = OFTEN
        wait = max(0.0, config.recipe.save_from - time.time())
        timer = threading.Timer(wait, self._save_every_step)
        timer.daemon = True
        timer.start()

    def _save_every_step(self) -> None:
        self.config.trainer.save_freq = 1

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, **kwargs: Any) -> None:
        """Marks a checkpoint that is out of turn, and removes earlier ones of these."""
        new = Path(checkpoint_dir)
        for mark in new.parent.glob(f"global_step_*/{EXTRA}"):
            shutil.rmtree(mark.parent)
        if global_step % self.every and global_step < trainer.total_training_steps:
            (new / EXTRA).touch()
