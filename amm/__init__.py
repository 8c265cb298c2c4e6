"""Adaptive Model Merging (AMM): merges experts trained from one base, from their weights alone.

    import amm
    amm.merge("base", ["math", "charts"], output="merged")

or `amm merge merge.yaml` on the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from amm._version import __version__

_HOME = {
    "InputError": "amm.errors",
    "LayerFigures": "amm.diagnostics",
    "MergeConfig": "amm.config",
    "MergeResult": "amm.run",
    "layer_figures": "amm.diagnostics",
    "load_config": "amm.config",
    "merge": "amm.run",
    "open_checkpoint": "amm.checkpoints",
    "register": "amm.methods",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'amm' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
