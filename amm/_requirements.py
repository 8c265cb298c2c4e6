"""What the merger needs installed beside what `lipo_verl` needs: extras, and their modules."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

EXTRAS = {
    "amm": ("numba", "rich", "safetensors", "typer", "yaml"),
    "calibrate": ("PIL", "pyarrow", "torchvision", "transformers"),
}


@cache
def require(extra: str = "amm") -> None:
    """Look for an extra's packages, without importing them.

    Raises:
        ImportError: some are missing; the message says what to install.
    """
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"amm needs {', '.join(missing)}: pip install '.[{extra}]' in a clone of lipo_verl."
        )
