"""The command line: `amm merge merge.yaml`."""

from __future__ import annotations

import logging
import resource
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="amm",
    help="Merge experts that were trained from one base into one model, from weights alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _commands() -> None:
    """Without a second command, typer would drop the first one's name."""


@app.command()
def merge(
    config: Annotated[Path, typer.Argument(help="The merge: a YAML file.", metavar="MERGE.YAML")],
) -> None:
    """Merge the experts that a YAML file names, and write the merged model.

    The file has the keys base, experts (a list of folders) and output, and may have method,
    parameters, save_dtype, compute_dtype, device, max_shard_size and copy_files_from. Experts are
    Hugging Face folders or FSDP shards of verl or EasyR1. Relative paths are relative to the
    current folder.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from amm.config import load_config
    from amm.run import run

    settings = load_config(config)
    console = Console(stderr=True)
    logging.getLogger("amm").addHandler(logging.NullHandler())
    columns = (
        TextColumn("{task.percentage:>3.0f} %"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("opening checkpoints", total=1.0)

        def progress(name: str, done: float) -> None:
            bar.update(task, completed=done, description=name)

        result = run(settings, progress)

    print(f"Merged model: {result.output}")
    print(f"Peak memory:  {_peak_memory_gib():.2f} GiB, pages of mapped files included")
    print(f"Warnings:     {len(result.warnings)}{_where(result.warnings)}")


def main() -> None:
    """Run the command line; bad input ends with one message and exit code 2."""
    from amm.errors import InputError

    try:
        app()
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _where(warnings: list[str]) -> str:
    return ", listed in merge_report.json" if warnings else ""


def _peak_memory_gib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
