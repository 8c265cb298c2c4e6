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
