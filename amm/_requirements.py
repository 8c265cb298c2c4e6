"""What the merger needs installed beside what `lipo_verl` needs: the extra `amm`."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

MODULES = ("numba", "rich", "safetensors", "typer", "yaml")


@cache
def require() -> None:
    """Look for the packages, without importing them.

    Raises:
        ImportError: some are missing; the message says what to install.
    """
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"amm needs {', '.join(missing)}: pip install '.[amm]' in a clone of lipo_verl."
        )
