"""``EASYR1_HOME`` names a checkout of EasyR1; without it, what needs EasyR1 is skipped.

The checkout goes before any other ``verl``, here and in whatever the tests start, together with
``doubles/``, which stands in for vLLM and the GPU.
"""

import os
import runpy
import sys
from pathlib import Path

import pytest

EASYR1_HOME = os.environ.get("EASYR1_HOME")
DOUBLES = Path(__file__).parent / "doubles"
REPOSITORY = Path(__file__).parents[3]

if EASYR1_HOME:
    from lipo_verl.easyr1 import hook

    sys.path[:0] = [str(DOUBLES), EASYR1_HOME]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(DOUBLES), EASYR1_HOME, str(REPOSITORY)])
    runpy.run_path(str(DOUBLES / "sitecustomize.py"))
    hook.install()


@pytest.fixture
def easyr1_home():
    """The checkout."""
    if not EASYR1_HOME:
        pytest.skip("EASYR1_HOME names no checkout of EasyR1")
    return Path(EASYR1_HOME)
