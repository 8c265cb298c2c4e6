"""The command line: `amm plan`, `merge`, `check`, `inspect`, `methods` and `calibrate`."""

from __future__ import annotations

import io
import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amm._requirements import require
from amm._version import __version__
from amm.text import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console

    from amm.config import MergeConfig

WRONG, BAD_INPUT, TRY_AGAIN, STOPPED = 1, 2, 75, 130
SECONDS_PER_LINE = 30

app = typer.Typer(
    name="amm",
    help="Merge experts that were trained from one base into one model, from weights alone.",
    epilog="Exit codes: 0 done, 1 something is wrong or failed, 2 bad input, 75 stopped by a full"
    " disk or the like, 130 interrupted; after 75 and 130 the same command resumes.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFile = Annotated[Path, typer.Argument(help="The merge: a YAML file.", metavar="MERGE.YAML")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another value for a key of the file; may be repeated. Examples: parameters.steps=100,"
        " experts.1.weight=0.5",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"amm {__version__}")
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """What holds for all commands."""


@app.command()
def merge(
    config: ConfigFile,
    set_: Set = None,
    engine: Annotated[
        str | None, typer.Option(metavar="local|ray", help="Here, or on a Ray cluster.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda|cuda:N", help="Where the method runs.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only; warnings are in the card.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Merge the experts that a YAML file names.

    The file has the keys base, experts (a list) and output, and may have method, parameters and
    others (docs/amm.md). Inputs are Hugging Face folders or ids, FSDP shards of verl or EasyR1, or
    LoRA adapters. Relative paths are relative to the current folder.

    If it is interrupted, the same command resumes.
    """
    from amm.errors import MergeInterrupted
    from amm.run import run

    settings = _load(config, set_, engine=engine, device=device)
    try:
        with _progress_bar(quiet) as progress:
            result = run(settings, progress)
    except MergeInterrupted as stop:
        print(stop, file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    if as_json:
        _print_json(result.as_dict())
    if as_json or quiet:
        return
    if result.resumed:
        print(f"Resumed:      {result.resumed} of {len(result.tensors)} tensors were done before")
    print(f"Merged model: {printable(result.output)}")
    print(f"Peak memory:  {_peak_memory_gib():.2f} GiB, pages of mapped files included")
    listed = ", listed in its README.md" if result.warnings else ""
    print(f"Warnings:     {len(result.warnings)}{listed}")


@app.command()
def plan(
    config: ConfigFile,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all weights, not a sample of each tensor.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every difference, not the first 20.")
    ] = False,
    as_json: Json = False,
    set_: Set = None,
) -> None:
    """Look at a merge before any work; writes nothing.

    Shows what doesn't fit in names, shapes and dtypes, which parts each expert moved, what becomes
    of each kind of tensor, and time, memory and disk space. Exit code 1 where the merged model
    would be wrong: another architecture, an expert that wasn't trained from this base, base and
    expert swapped.
    """
    from amm.planning import plan_config
    from amm.show import show_plan

    found = plan_config(_load(config, set_), deep=deep)
    if as_json:
        _print_json(found.as_dict())
    else:
        show_plan(found, _console(), everything=everything)
    if not found.ok:
        raise typer.Exit(WRONG)


@app.command()
def check(
    output: Annotated[Path, typer.Argument(help="A merged model.", metavar="OUTPUT")],
    base: Annotated[
        str | None, typer.Option(help="Its base; by default what its provenance.json names.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that a merged model is whole and loads.

    Names, shapes and dtypes against the base's, all entries finite, the head tied as config.json
    says, other files as in the donor; and whether transformers and vLLM, where installed, take it.
    Exit code 1 if anything is wrong.
    """
    from amm.checking import check as run_check
    from amm.show import show_check

    result = run_check(output, base)
    if as_json:
        _print_json(result.as_dict())
    else:
        show_check(result, _console())
    if not result.ok:
        raise typer.Exit(WRONG)


@app.command()
def inspect(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A YAML file, or the base and its experts.", metavar="MERGE.YAML | BASE EXPERT..."
        ),
    ],
    png: Annotated[
        Path | None, typer.Option(help="Also draw heat-maps into this file.", metavar="FILE.PNG")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="A line for every tensor, not every kind.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what the experts changed, and how alike they are.

    Takes a YAML file, or the base and its experts: amm inspect BASE EXPERT EXPERT

    For each expert the size of its task vector next to the base's weights, the share of weights
    that it left as they were (also once rounded to bf16) and its rank; of a YAML file, what it says
    is done with each part; and how alike the experts' task vectors are.
    """
    from amm.config import MergeConfig
    from amm.errors import InputError
    from amm.inspection import inspect_config
    from amm.settings import validated
    from amm.show import show_inspection

    if png is not None:
        _check_picture(png)
    if len(models) > 1:
        values = {"base": models[0], "experts": models[1:], "output": "."}
        config, rules = validated(MergeConfig, values, "inspect"), False
    elif Path(models[0]).suffix in (".yaml", ".yml"):
        config, rules = _load(Path(models[0]), None), True
    else:
        raise InputError(f"name experts too: amm inspect {models[0]} EXPERT, or a YAML file.")
    with _progress_bar() as progress:
        found = inspect_config(config, progress, rules=rules)
    if png is not None:
        png.write_bytes(found.picture())
    if as_json:
        _print_json(found.as_dict())
    else:
        show_inspection(found, _console(), layers=layers)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the merge methods with their settings."""
    from amm.methods import get_method, method_names
    from amm.show import show_methods

    found = [get_method(name) for name in method_names()]
    if as_json:
        _print_json({method.name: method.settings.model_json_schema() for method in found})
    else:
        show_methods(found, _console())


calibrate = typer.Typer(
    help="Learn from forward passes over questions what some methods need beside the weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(calibrate, name="calibrate")


@calibrate.callback()
def _needs_more() -> None:
    """Say what to install, before anything is read."""
    try:
        require("calibrate")
    except ImportError as error:
        sys.exit(str(error))


Questions = Annotated[
    Path,
    typer.Option(help="Training questions: Parquet or JSON Lines.", metavar="FILE"),
]
Table = Annotated[Path, typer.Option(help="The file to write.", metavar="FILE.safetensors")]
Device = Annotated[str, typer.Option(metavar="cpu|cuda|cuda:N", help="Where models run.")]


@calibrate.command()
def activations(
    model: Annotated[str, typer.Argument(help="The base of the merge.", metavar="BASE")],
    questions: Questions,
    output: Table,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Answers that are read after the questions.", metavar="FILE.jsonl"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Questions, at most.")] = 256,
    device: Device = "cpu",
) -> None:
    """Measure the base's activations, for method aim.

    How active the inputs of each linear layer are, over the questions.
    """
    from amm.calibration.run import calibrate_activations

    with _progress_bar() as progress:
        calibrate_activations(
            model,
            questions,
            output=output,
            answers=answers or [],
            samples=samples,
            device=device,
            progress=progress,
        )
    print(f"Activations: {printable(output)}")


@calibrate.command()
def rpam(
    long: Annotated[str, typer.Argument(help="The long-reasoning model.", metavar="LONG")],
    short: Annotated[str, typer.Argument(help="The short-answering one.", metavar="SHORT")],
    questions: Questions,
    long_answers: Annotated[
        list[Path], typer.Option(help="The long model's scored answers.", metavar="FILE.jsonl")
    ],
    short_answers: Annotated[
        list[Path], typer.Option(help="The short model's.", metavar="FILE.jsonl")
    ],
    held_out: Annotated[
        list[Path],
        typer.Option(
            help="Questions that the merge will be judged by: none of them may be calibrated on.",
            metavar="FILE",
        ),
    ],
    output: Table,
    granularity: Annotated[
        str, typer.Option(metavar="tensor|layer|element", help="What has a coefficient.")
    ] = "tensor",
    epochs: Annotated[int, typer.Option(help="Passes over the questions, a layer.")] = 100,
    per_class: Annotated[int, typer.Option(min=1, help="Questions of each label, at most.")] = 64,
    device: Device = "cpu",
) -> None:
    """Find each layer's coefficients, for method rpam.

    How far it goes from the long model towards the short one. Answer files are those of
    `python -m lipo_verl.evaluate`; options with FILE may be repeated.

    If it is interrupted, the same command resumes after the last finished layer.
    """
    from amm.calibration.run import calibrate_rpam

    try:
        with _progress_bar() as progress:
            calibrate_rpam(
                long,
                short,
                questions,
                long_answers=long_answers,
                short_answers=short_answers,
                held_out=held_out,
                output=output,
                per_class=per_class,
                device=device,
                progress=progress,
                granularity=granularity,
                epochs=epochs,
            )
    except KeyboardInterrupt:
        print("Interrupted; the same command resumes after the last finished layer.")
        raise typer.Exit(STOPPED) from None
    print(f"Coefficients: {printable(output)}")


def main() -> None:
    """Run the command line; errors end with one message and a code of their own."""
    from amm.errors import InputError, UnfinishedError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (InputError, OSError) as error:
        print(f"Error: {printable_lines(error)}", file=sys.stderr)
        if isinstance(error, InputError):
            sys.exit(BAD_INPUT)
        sys.exit(TRY_AGAIN if isinstance(error, UnfinishedError) else WRONG)


def _load(file: Path, changes: list[str] | None, **options: str | None) -> MergeConfig:
    """The file's settings, with those of the command line in their place."""
    from amm.config import MergeConfig, load_config, parse_yaml
    from amm.errors import InputError
    from amm.settings import validated

    config = load_config(file)
    values: dict[str, Any] = config.model_dump(exclude_unset=True)
    values["experts"] = [{"path": e} if not isinstance(e, dict) else e for e in values["experts"]]
    values["overrides"] = list(values.get("overrides", ()))
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: write key=value, such as parameters.steps=100.")
        try:
            _put(values, key, parse_yaml(text, f"--set {key}"))
        except LookupError as error:
            raise InputError(f"--set {change}: {error.args[0]}.") from None
    given = {key: value for key, value in options.items() if value is not None}
    if not changes and not given:
        return config
    return validated(MergeConfig, values | given, "command line")


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value within settings; numbers in a key are those of a list's entries.

    Raises:
        LookupError: there is no such place; the message says where the key is wrong.
    """
    place: Any = values
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(place, dict):
            place.setdefault(part, {})
        place = place[_index(place, part, parents[:depth])]
    place[_index(place, last, parents)] = value


def _index(place: Any, part: str, above: list[str]) -> str | int:
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise LookupError(f"{'.'.join(above)} has no keys")
    if not part.isdigit() or int(part) >= len(place):
        raise LookupError(f"{'.'.join(above)} has the entries 0 to {len(place) - 1}, not {part}")
    return int(part)


class _Lines(logging.Handler):
    """Prints log messages above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(printable_lines(record.getMessage()), soft_wrap=True)


@contextmanager
def _progress_bar(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A bar with the time left, or a line twice a minute where there is no terminal.

    Yields:
        What to call after each tensor, with its name and the share of the work that is done.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.percentage:>3.0f} %"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    bar = Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=600,
        transient=True,
    )
    logger, lines = logging.getLogger("amm"), _Lines(console)
    logger.addHandler(lines)
    try:
        with bar:
            task = bar.add_task("opening checkpoints", total=1.0)
            printed = time.monotonic()

            def progress(name: str, done: float) -> None:
                nonlocal printed
                name = printable(name)
                if name == "resuming":
                    # rich counts in floats, and says so everywhere but here
                    bar.reset(task, completed=done, description=name)  # type: ignore[arg-type]
                bar.update(task, completed=done, description=name)
                now = time.monotonic()
                if not console.is_terminal and now - printed > SECONDS_PER_LINE:
                    printed = now
                    console.print(f"{done:4.0%} {name}", soft_wrap=True)

            yield progress
    finally:
        logger.removeHandler(lines)


def _console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that takes what it prints as it is: names may hold marks of rich's."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, stderr=stderr, quiet=quiet)


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2))


def _check_picture(png: Path) -> None:
    """Refuse a picture that can't be drawn or written, before anything is read."""
    from amm.errors import InputError
    from amm.plots import can_draw

    if not can_draw():
        raise InputError(f"{png} can't be drawn: matplotlib isn't installed (pip install it).")
    there = png.exists()
    try:
        png.open("ab").close()
    except OSError as error:
        raise InputError(f"{png} can't be written ({error.strerror}); name another.") from None
    if not there:
        png.unlink()


def _peak_memory_gib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
