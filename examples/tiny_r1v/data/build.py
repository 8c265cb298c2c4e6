"""From sources to an expert's files, and from the experts' to the mixture's.

What is drawn from each source is kept (``parts/``), so that an interrupted run resumes at the
source where it stopped. Files appear whole or not at all.
"""

from collections import defaultdict
from collections.abc import Container
from itertools import pairwise
from pathlib import Path
from typing import Any

from examples.tiny_r1v.data import files
from examples.tiny_r1v.data.errors import DataError
from examples.tiny_r1v.data.evaluation import load_index
from examples.tiny_r1v.data.fetch import fetch
from examples.tiny_r1v.data.manifest import (
    MIN_SHARE,
    Settings,
    complete,
    finished,
    too_few,
    too_short,
    versions,
)
from examples.tiny_r1v.data.parts import Kept, Task, make_part
from examples.tiny_r1v.data.progress import Progress
from examples.tiny_r1v.data.ranking import rank
from examples.tiny_r1v.data.schema import EXPERTS
from examples.tiny_r1v.data.shuffle import read_rows, write_shuffled
from examples.tiny_r1v.data.sources import DEFAULT_COUNT, SOURCES, Source
from examples.whole import write_json


def build_expert(
    expert: str,
    output: Path,
    settings: Settings,
    source_dir: Path | None,
    workers: int,
    progress: Progress,
    allow_short: Container[str] = (),
) -> dict[str, Any]:
    """Writes ``<output>/<expert>/`` train.parquet, val.parquet and manifest.json.

    allow_short: sources that may give less than MIN_SHARE of their share; the next make up for it

    Returns the manifest. Files that are there already, made with the same settings, are kept.

    Raises DataError where a source can't be had or read or gives too little of its share, where
    too few rows are left, and where the folder was made with other settings.
    """
    folder = output / expert
    done = finished(folder, settings)
    if done is not None:
        progress.say(f"{folder} is complete")
        return done
    index, evaluation = load_index(
        output / "evaluation_sets",
        settings.seed,
        source_dir,
        workers,
        progress.say,
    )
    wanted = shared_out(SOURCES[expert], DEFAULT_COUNT[expert], settings.count + settings.val)
    described, parts, rows, missing = [], [], [], 0
    for source, share in zip(SOURCES[expert], wanted, strict=True):
        progress.say(f"Looking for {source.name} ({source.repository.repo})")
        task = Task(
            expert, source, fetch(source.repository, settings.seed, source_dir), share + missing,
            settings.seed, index, frozenset(row.key for row in rows),
            frozenset(row.picture for row in rows),
        )  # fmt: skip
        part = folder / "parts" / f"{source.name}.parquet"
        summary = make_part(part, task, evaluation, workers, progress)
        missing += share - summary["kept"]
        rows += [Kept(*row) for row in summary["rows"]]
        described.append(
            {"share": share}
            | {key: value for key, value in summary.items() if key not in ("rows", "fingerprint")}
        )
        parts.append(part)
        if summary["kept"] < MIN_SHARE * share and source.name not in allow_short:
            raise DataError(too_short(expert, described[-1]))
        if summary["kept"] < share:
            progress.say(f"{source.name} gives {summary['kept']} rows of its share of {share}")
    if missing > 0:
        raise DataError(too_few(expert, settings, missing, described))
    progress.say(f"Writing {folder}")
    split = split_rows(rows, settings)
    outputs = {}
    for name in ("train", "val"):
        path = folder / f"{name}.parquet"
        chosen = (row for row in read_rows(parts) if split.get(row["extra_info"]["id"]) == name)
        outputs[path.name] = write_shuffled(path, chosen, name, settings.seed)
    manifest = {
        "expert": expert,
        "settings": settings.described(),
        "versions": versions(),
        "sources": described,
        "evaluation_sets": evaluation,
        "outputs": outputs,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def build_mixture(
    output: Path,
    settings: dict[str, Settings],
    source_dir: Path | None,
    workers: int,
    progress: Progress,
    allow_short: Container[str] = (),
) -> dict[str, Any]:
    """Writes ``<output>/mixture/``: all rows of the three experts, shuffled.

    settings: by expert; an expert that is not there yet is built first

    Returns the manifest; raises as build_expert.
    """
    manifests = {
        expert: build_expert(
            expert, output, settings[expert], source_dir, workers, progress, allow_short
        )
        for expert in EXPERTS
    }
    folder = output / "mixture"
    seed = settings[EXPERTS[0]].seed
    experts = {expert: manifest["outputs"] for expert, manifest in manifests.items()}
    if (folder / "manifest.json").exists():
        there = files.read_json(folder / "manifest.json")
        if (there["seed"], there["experts"]) == (seed, experts) and complete(folder, there):
            progress.say(f"{folder} is complete")
            return there
    progress.say(f"Writing {folder}")
    outputs = {}
    for name in ("train", "val"):
        path = folder / f"{name}.parquet"
        inputs = [output / expert / path.name for expert in EXPERTS]
        outputs[path.name] = write_shuffled(path, read_rows(inputs), name, seed)
    manifest = {
        "expert": "mixture",
        "seed": seed,
        "versions": versions(),
        "experts": experts,
        "licenses": {
            source["name"]: source["license"]
            for manifest in manifests.values()
            for source in manifest["sources"]
        },
        "outputs": outputs,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def shared_out(sources: tuple[Source, ...], of: int, count: int) -> list[int]:
    """``count`` rows shared out as the sources' shares of ``of`` are, exactly."""
    bounds = [0]
    for source in sources:
        bounds.append(bounds[-1] + source.share)
    places = [round(bound * count / of) for bound in bounds]
    return [end - start for start, end in pairwise(places)]


def split_rows(rows: list[Kept], settings: Settings) -> dict[str, str]:
    """``train`` or ``val`` by id; questions about one picture are in the same."""
    pictures: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        pictures[row.picture].append(row.id)
    split: dict[str, str] = {}
    for picture in sorted(pictures, key=lambda name: rank(settings.seed, "val", name)):
        if len(split) + len(pictures[picture]) <= settings.val:
            split |= dict.fromkeys(pictures[picture], "val")
    others = sorted({row.id for row in rows} - split.keys(), key=lambda id: rank(settings.seed, id))
    return split | dict.fromkeys(others[: settings.count], "train")
