"""What installing lipo_verl brings into an environment, and what it leaves: offline, with pip."""

import email
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import amm

ROOT = Path(__file__).parents[1]
SOURCES = ("amm", "lipo_verl", "pyproject.toml", "setup.py", "README.md", "LICENSE")

BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"

BARE_VERL = {
    "numpy": "1.26.4",
    "omegaconf": "2.3.0",
    "pydantic": "2.10.0",
    "torch": "2.6.0",
    "transformers": "4.52.4",
    "verl": "0.5.0",
}
"""Of an environment with verl and its requirements alone, what matters here; verl 0.5's is the
oldest that it can have. It has neither numba nor llvmlite."""


def built(kind, source):
    """What one of the build backend's functions makes of a source tree."""
    (source / kind).mkdir()
    command = [sys.executable, "-c", BUILD, kind, source / kind]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = (source / kind).iterdir()
    return made


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The source distribution and the wheel that pip makes of this repository, and the wheel of an
    editable installation."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    return {kind: built(kind, source) for kind in ("build_sdist", "build_wheel", "build_editable")}


class Environment:
    """A virtual environment of its own, and what is installed there."""

    def __init__(self, folder):
        venv.create(folder, symlinks=True)
        self.python_path = folder / "bin" / "python"
        (self.site_packages,) = folder.glob("lib/python*/site-packages")

    def python(self, *arguments):
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        command = [self.python_path, *arguments]
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True)

    def pip(self, *arguments):
        command = [sys.executable, "-m", "pip", "--python", self.python_path, *arguments]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP"))}
        return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "environment")


@pytest.fixture
def verl_environment(environment):
    """Pip sees the packages of verl there."""
    for name, version in BARE_VERL.items():
        folder = environment.site_packages / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
    return environment


def test_installing_into_a_verl_environment_changes_no_other_package(verl_environment, wheels):
    done = verl_environment.pip(
        *("install", "--no-index", "--dry-run", "--quiet", "--report", "-", wheels["build_wheel"])
    )
    assert done.returncode == 0, done.stderr
    installed = json.loads(done.stdout)["install"]
    assert [each["metadata"]["name"] for each in installed] == ["lipo-verl"]


def test_the_wheel_holds_both_packages_and_nothing_else(wheels):
    with zipfile.ZipFile(wheels["build_wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {
        str(file.relative_to(ROOT))
        for package in ("amm", "lipo_verl")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and file.parent.name != "__pycache__"
    }
    assert {"amm/py.typed", "lipo_verl/py.typed"} <= ours
    assert names == ours | {"lipo_verl.pth"}


def test_the_wheels_metadata_say_what_the_repository_says(wheels):
    with zipfile.ZipFile(wheels["build_wheel"]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_string(wheel.read(name).decode())
        licence = wheel.read(name.replace("METADATA", "licenses/LICENSE"))
    assert metadata["Version"] == amm.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    supported = [f"3.{minor}" for minor in range(10, 13)]
    known = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") if "Python :: 3." in c]
    assert known == supported
    assert [
        v in SpecifierSet(metadata["Requires-Python"]) for v in ("3.9", *supported, "3.13")
    ] == [*(False, True, True, True, False)]


def test_the_source_distribution_builds_the_same_wheel(wheels, tmp_path):
    shutil.unpack_archive(wheels["build_sdist"], tmp_path)
    (source,) = tmp_path.iterdir()
    with (
        zipfile.ZipFile(built("build_wheel", source)) as again,
        zipfile.ZipFile(wheels["build_wheel"]) as wheel,
    ):
        assert sorted(again.namelist()) == sorted(wheel.namelist())


def test_the_changelog_and_the_citation_are_of_this_version():
    assert f"## [{amm.__version__}] - " in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == amm.__version__


def test_the_merger_is_an_extra(verl_environment, wheels):
    wanted = f"{wheels['build_wheel']}[amm]"
    done = verl_environment.pip("install", "--no-index", "--dry-run", wanted)
    assert done.returncode == 1
    assert "No matching distribution found" in done.stderr


HOOKED = "import sys; print(*sorted(m for m in sys.modules if m.startswith('lipo_verl')))"


@pytest.mark.parametrize("kind", ["build_wheel", "build_editable"])
def test_pip_brings_the_hook_of_every_interpreter_and_takes_it_away(kind, environment, wheels):
    assert environment.pip("install", "--no-index", "--no-deps", wheels[kind]).returncode == 0
    started = environment.python("-c", HOOKED)
    assert (started.stdout, started.stderr) == ("lipo_verl lipo_verl.hook\n", "")
    assert environment.pip("uninstall", "--yes", "lipo-verl").returncode == 0
    assert not [*environment.site_packages.glob("*lipo*")]


def test_the_hook_loads_nothing_else(environment, wheels):
    code = "import sys; print(*sorted(sys.modules))"
    before = environment.python("-c", code).stdout.split()
    environment.pip("install", "--no-index", "--no-deps", wheels["build_wheel"])
    after = environment.python("-c", code).stdout.split()
    assert set(after) - set(before) == {"lipo_verl", "lipo_verl.hook"}


@pytest.mark.parametrize("source", [None, "raise RuntimeError('broken')", "(", "install = None"])
def test_an_interpreter_starts_without_a_word_where_lipo_verl_is_gone_or_broken(
    source, environment, wheels
):
    environment.pip("install", "--no-index", "--no-deps", wheels["build_wheel"])
    package = environment.site_packages / "lipo_verl"
    if source is None:
        shutil.rmtree(package)
    else:
        (package / "hook.py").write_text(source)
    started = environment.python("-c", "print('started')")
    assert (started.returncode, started.stdout, started.stderr) == (0, "started\n", "")


def test_make_says_what_testing_in_another_verl_takes():
    done = subprocess.run(["make", "-C", ROOT, "test-verl"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "make test-verl VERSION=0.8.0, or VERSION=main VERL_HOME=checkout" in done.stderr
