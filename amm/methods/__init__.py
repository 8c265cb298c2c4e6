"""Merge methods, one file each: a pure function of one tensor's task vectors."""

from amm.methods import amm, mean, task_arithmetic, wudi
from amm.methods.registry import Method, OtherTensors, get_method, method_names, register

__all__ = [
    "Method",
    "OtherTensors",
    "amm",
    "get_method",
    "mean",
    "method_names",
    "register",
    "task_arithmetic",
    "wudi",
]
