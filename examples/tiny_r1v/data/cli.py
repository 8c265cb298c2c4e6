"""The command line of ``python -m examples.tiny_r1v.data``."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.tiny_r1v import data
from examples.tiny_r1v.data.build import build_expert, build_mixture
from examples.tiny_r1v.data.errors import DataError
from examples.tiny_r1v.data.evaluation import EVALUATION_SETS
from examples.tiny_r1v.data.fetch import Repository, check_copies, downloads
from examples.tiny_r1v.data.manifest import MIN_SHARE, Settings, finished
from examples.tiny_r1v.data.progress import Progress
from examples.tiny_r1v.data.schema import EXPERTS
from examples.tiny_r1v.data.sources import DEFAULT_COUNT, MODEL, SOURCES
from lipo_verl.errors import did_you_mean

VAL = 300


def main(arguments: Sequence[str]) -> int:
    """Writes the data and says what it wrote; 1 after an error that it explains."""
    given = _parsed(arguments)
    if given.print_downloads:
        everything = (*_repositories(given.experts), MODEL)
        print(downloads(everything, given.seed, given.print_downloads))
        return 0
    console = Console(stderr=True)
    progress = Progress(console)
    settings = {
        expert: Settings(given.count or DEFAULT_COUNT[expert], given.val, given.seed)
        for expert in EXPERTS
    }
    common = (given.source_dir, given.workers, progress, frozenset(given.allow_short))
    try:
        missing = [
            expert
            for expert in given.experts
            if finished(given.output / expert, settings[expert]) is None
        ]
        if given.source_dir and missing:
            check_copies(_repositories(missing), given.seed, given.source_dir)
        if given.expert == "mixture":
            manifest = build_mixture(given.output, settings, *common)
        else:
            manifest = build_expert(given.expert, given.output, settings[given.expert], *common)
    except DataError as error:
        progress.say(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        progress.say("Stopped. The same command resumes at the source where it stopped.")
        return 130
    print(_summary(given.output / given.expert, manifest))
    return 0


def _summary(folder: Path, manifest: dict[str, Any]) -> str:
    lines = [
        f"{folder / name}: {output['rows']} rows, {output['bytes'] / 1e6:.1f} MB"
        for name, output in manifest["outputs"].items()
    ]
    for source in manifest.get("sources", ()):
        left_out = sum(source["dropped"].values())
        lines.append(
            f"  {source['name']}: {source['kept']} rows of its share of {source['share']}, from "
            f"{source['read']} questions, {left_out} left out; licence: {source['license']}"
        )
    return "\n".join([*lines, f"{folder / 'manifest.json'}: counts, reasons, hashes, licences"])


def _repositories(experts: Sequence[str]) -> list[Repository]:
    trained = [source.repository for expert in experts for source in SOURCES[expert]]
    return [*trained, *(evaluation.repository for evaluation in EVALUATION_SETS)]


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    given = parser.parse_args(arguments)
    if not (given.output or given.print_downloads):
        parser.error("--output DIR is missing: the folder that gets <expert>/*.parquet")
    given.experts = EXPERTS if given.expert == "mixture" else (given.expert,)
    known = [source.name for expert in given.experts for source in SOURCES[expert]]
    for name in given.allow_short:
        if name not in known:
            parser.error(
                f"--allow-short {name}: no source of {given.expert}.{did_you_mean(name, known)} "
                f"Its sources: {', '.join(known)}"
            )
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.tiny_r1v.data", description=data.__doc__.splitlines()[0]
    )
    parser.add_argument("expert", choices=[*EXPERTS, "mixture"])
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder; gets <expert>/*.parquet"
    )
    parser.add_argument(
        "--count",
        type=_positive,
        help="training rows of an expert (default: the paper's, "
        + ", ".join(f"{expert} {count}" for expert, count in DEFAULT_COUNT.items())
        + "; the mixture has all of them)",
    )
    parser.add_argument(
        "--val", type=_positive, default=VAL, help=f"validation rows of an expert (default: {VAL})"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which rows are drawn")
    parser.add_argument(
        "--source-dir",
        type=_folder,
        help="copies of the datasets, <org>/<name>/… as on the Hub, instead of the Hub",
    )
    parser.add_argument(
        "--allow-short",
        action="append",
        default=[],
        metavar="SOURCE",
        help=f"a source that may give less than {MIN_SHARE:.0%} of its share (repeatable); the "
        "next sources make up for it".replace("%", "%%"),
    )
    parser.add_argument(
        "--print-downloads",
        type=Path,
        metavar="DIR",
        help="only print the commands that download everything, the base model and the evaluation "
        "sets included, to DIR (then: --source-dir DIR)",
    )
    parser.add_argument(
        "--workers", type=_positive, default=os.cpu_count(), help="threads that prepare pictures"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path
