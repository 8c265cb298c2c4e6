"""Merge methods, one file each: a pure function of one tensor's task vectors."""

from amm.methods import (
    amm,
    dare,
    emr,
    iso_c,
    mean,
    optmerge,
    ridge,
    task_arithmetic,
    ties,
    tsv,
    wudi,
    wudi_spectral,
)
from amm.methods.registry import (
    Method,
    OtherTensors,
    Place,
    SideEntry,
    SideFile,
    get_method,
    method_names,
    register,
)

__all__ = [
    "Method",
    "OtherTensors",
    "Place",
    "SideEntry",
    "SideFile",
    "amm",
    "dare",
    "emr",
    "get_method",
    "iso_c",
    "mean",
    "method_names",
    "optmerge",
    "register",
    "ridge",
    "task_arithmetic",
    "ties",
    "tsv",
    "wudi",
    "wudi_spectral",
]
