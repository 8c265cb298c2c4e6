"""What the command lines of the study and of the bench have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


def parser(
    module: str, description: str | None, sizes: Iterable[str], committed: str
) -> argparse.ArgumentParser:
    """Takes --size, --output and --results.

    committed: the folder of the repository's results, in examples/evidence/results
    """
    found = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--size", choices=sizes, default="full")
    found.add_argument("--output", type=Path, help="working folder, in runs/ by default")
    found.add_argument(
        "--results",
        type=Path,
        help="where results are and go, OUTPUT/results; "
        f"--results examples/evidence/results/{committed} resumes from the repository's",
    )
    return found


def folders(given: argparse.Namespace, name: str) -> tuple[Path, Path]:
    """The working folder, runs/NAME-SIZE where none is given, and that of results."""
    output = (given.output or Path("runs", f"{name}-{given.size}")).resolve()
    return output, (given.results or output / "results").resolve()
