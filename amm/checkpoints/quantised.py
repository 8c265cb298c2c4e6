"""Weights that were quantised: packed or scaled numbers, which can't be added to anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from amm.checkpoints.base import Checkpoint
from amm.checkpoints.files import read_config
from amm.errors import InputError

_PARTS = re.compile(
    r"(\.|_)(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv|_2)?|scale_inv|absmax|quant_map"
    r"|nested_absmax|quant_state\.\w+|SCB|weight_format|(proj|weight)_(blocks|scales))$"
)
"""What GPTQ, AWQ, compressed-tensors, fp8, bitsandbytes and MXFP4 store beside, or as, a weight."""

_FLOAT8 = tuple(
    dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize == 1
)

_WAYS = {
    "fp8": "load it in transformers with FineGrainedFP8Config(dequantize=True), save it",
    "mxfp4": "load it in transformers with Mxfp4Config(dequantize=True), save it",
    "bitsandbytes": "load it in transformers, call model.dequantize(), save it",
    "compressed-tensors": "load it in transformers with CompressedTensorsConfig("
    "run_compressed=False), save it",
}
"""`quant_method` → how its weights get back to 16 bits."""


def check_not_quantised(checkpoint: Checkpoint) -> None:
    """Refuse a model whose weights are quantised.

    A configuration that names a quantisation isn't enough: it is kept by some tools that undo it.

    Raises:
        InputError: some are; which, by what method, and what to give instead.
    """
    config = read_config(checkpoint.files_folder)
    method = _method(config)
    key = next((key for key in checkpoint.keys() if _is_quantised(checkpoint, key, method)), None)
    if key is None:
        return
    said = f'quantization_config of its config.json says "{method}"; ' if method else ""
    way = _WAYS.get(method or "")
    convert = f", or {way} and remove quantization_config from its config.json" if way else ""
    raise InputError(
        f"{checkpoint.path} is quantised ({said}{key} has dtype {checkpoint.dtype(key)}): such"
        " numbers can't be merged, nor an adapter be added to them. Give the 16-bit model that it"
        f" was made from{convert}."
    )


def _is_quantised(checkpoint: Checkpoint, key: str, method: str | None) -> bool:
    dtype = checkpoint.dtype(key)
    if dtype in _FLOAT8 or _PARTS.search(key):
        return True
    return method is not None and key.endswith(".weight") and not dtype.is_floating_point


def _method(config: Mapping[str, Any]) -> str | None:
    found = config.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    return method[:50] if isinstance(method, str) else None
