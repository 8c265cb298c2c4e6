"""Merge methods, one file each: a pure function of one tensor's task vectors."""

from amm.methods import (  # noqa: F401  importing one registers it
    aim,
    amm,
    dare,
    della,
    emr,
    iso_c,
    karcher,
    mean,
    model_stock,
    optmerge,
    ram,
    ridge,
    rpam,
    sce,
    slerp,
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
    merge_tensors,
    method_names,
    register,
)

__all__ = [
    "Method",
    "OtherTensors",
    "Place",
    "SideEntry",
    "SideFile",
    "get_method",
    "merge_tensors",
    "method_names",
    "register",
]
