"""Adaptive Model Merging (AMM): merges experts trained from one base, from their weights alone.

    import amm
    amm.merge("base", ["math", "charts"], output="merged")

or `amm merge merge.yaml` on the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from amm._requirements import require
from amm._version import __version__

if TYPE_CHECKING:
    from amm.calibration.run import calibrate_activations, calibrate_rpam
    from amm.checking import CheckResult, check
    from amm.checkpoints import open_checkpoint
    from amm.config import MergeConfig, load_config
    from amm.diagnostics import LayerFigures, layer_figures
    from amm.errors import InputError, MergeInterrupted, UnfinishedError
    from amm.inspection import Inspection, inspect
    from amm.methods import merge_tensors, register
    from amm.planning import Plan, plan
    from amm.report import MergeResult
    from amm.run import merge

_HOME = {
    "CheckResult": "amm.checking",
    "InputError": "amm.errors",
    "Inspection": "amm.inspection",
    "LayerFigures": "amm.diagnostics",
    "MergeConfig": "amm.config",
    "MergeInterrupted": "amm.errors",
    "MergeResult": "amm.report",
    "Plan": "amm.planning",
    "UnfinishedError": "amm.errors",
    "calibrate_activations": "amm.calibration.run",
    "calibrate_rpam": "amm.calibration.run",
    "check": "amm.checking",
    "inspect": "amm.inspection",
    "layer_figures": "amm.diagnostics",
    "load_config": "amm.config",
    "merge": "amm.run",
    "merge_tensors": "amm.methods",
    "open_checkpoint": "amm.checkpoints",
    "plan": "amm.planning",
    "register": "amm.methods",
}

__all__ = [
    "CheckResult",
    "InputError",
    "Inspection",
    "LayerFigures",
    "MergeConfig",
    "MergeInterrupted",
    "MergeResult",
    "Plan",
    "UnfinishedError",
    "__version__",
    "calibrate_activations",
    "calibrate_rpam",
    "check",
    "inspect",
    "layer_figures",
    "load_config",
    "merge",
    "merge_tensors",
    "open_checkpoint",
    "plan",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'amm' has no attribute '{name}'")
    require()
    return getattr(import_module(_HOME[name]), name)
