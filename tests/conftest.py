"""For all tests: SIGINT as in a terminal, and the environment's own linters.

A shell that starts a command in the background has it, and all that it starts, ignore SIGINT.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def linter() -> Callable[[str, str], str]:
    """The path of a command that a Python package brings, the environment's before others."""

    def find(name: str, package: str) -> str:
        tool = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert tool, f"pip install {package}"
        return tool

    return find


@pytest.fixture
def distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str, str], None]:
    """Puts a module and its distribution's metadata on the path, as pip does."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(module: str, source: str, entry_points: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(entry_points)

    return add
