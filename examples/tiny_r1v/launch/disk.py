"""Is there disk for the whole recipe? Asked before the first run, and not after days.

python -m examples.tiny_r1v.launch.disk OUTPUT --runs 12 [--model MODEL]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from examples.tiny_r1v.size import estimate
from examples.tiny_r1v.size.estimate import GB
from examples.tiny_r1v.size.shapes import Shape, SizeError, shape

CHECKPOINTS = 6
"""Of each run."""

MERGES = 11
"""As many as methods in ``examples.tiny_r1v.table``."""

DATA = 25 * GB
"""Downloads and files of all experts: docs/recipe/data.md."""


def recipe_bytes(shape: Shape, runs: int) -> float:
    """All of it, when the last run saves its last checkpoint: of each finished run only the last
    checkpoint has kept its moments; and a bf16 model of each run and each merge in the table."""
    whole, weights = estimate.checkpoint_bytes(shape), 4 * shape.parameters
    finished = (runs - 1) * (whole + (CHECKPOINTS - 1) * weights)
    return finished + CHECKPOINTS * whole + (runs + MERGES) * weights / 2 + DATA


def space(folder: Path) -> tuple[int, int]:
    """Bytes that are free where a folder is or will be, and bytes that its files take."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return shutil.disk_usage(existing).free, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--model", default="3b")
    arguments = parser.parse_args()
    output: Path = arguments.output
    try:
        needed = recipe_bytes(shape(arguments.model), arguments.runs)
    except SizeError as error:
        print(f"The disk that the recipe needs is not known. {error}", file=sys.stderr)
        return
    free, used = space(output)
    said = (
        f"{arguments.runs} runs, their models and the merges take about {needed / GB:.0f} GB of "
        f"disk; {output} has {used / GB:.0f} GB of it, and {free / GB:.0f} GB are free."
    )
    if used + free < needed:
        sys.exit(
            f"{said} Another place with --output, fewer --algorithms or --experts at a time, or "
            "--no-check."
        )
    print(said)


if __name__ == "__main__":
    main()
