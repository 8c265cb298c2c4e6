"""Merges experts that contradict each other by every method: `make evidence-merging`, or

    python -m examples.evidence.merging.bench --size full

On some sets of experts each method's scale and AMM's open choices are tuned (`tune`); others are
reported (`report`). The question, the measures and the rules, written before the runs, are in
docs/evidence.md.

Each set of experts leaves one small file in the results' folder, with a line for each merge. What
is there is not done again, so the same command resumes; a second one beside it takes sets that the
first does not work on.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import track
from transformers.utils.logging import disable_progress_bar

import amm
from examples.evidence import command
from examples.evidence.merging import rows as files
from examples.evidence.merging.choice import Results, best_forms, best_scales, combinations
from examples.evidence.merging.examine import Examination
from examples.evidence.merging.experts import Tuning, load, reinforce, tune
from examples.evidence.merging.grid import PUBLISHED, WITHOUT, Merge, choices, scaled
from examples.evidence.merging.rows import Row, Set
from examples.evidence.merging.skills import SKILLS
from examples.quickstart import base_model
from examples.quickstart.stages import keep_settings
from examples.quickstart.train import TrainingFailed
from examples.run_folder import FolderInUse, SettingsDiffer, sole_launch

KINDS = {
    "full": Tuning(steps=120, learning_rate=5e-4, lora=False),
    "lora": Tuning(steps=160, learning_rate=1.5e-3, lora=True),
}
MIXTURE_STEPS = 240


@dataclass(frozen=True)
class Size:
    """How large a bench is."""

    experts: tuple[int, ...]
    """How many are merged."""
    questions: int
    """For each skill."""
    families: tuple[tuple[str, str], ...]
    """Of skills, each with the kind of its experts."""
    tuning: tuple[int, ...]
    """Seeds."""
    reported: tuple[int, ...]
    mixtures: tuple[int, ...]
    """Reported seeds that have models tuned on all skills at once, too."""
    reinforced: tuple[int, ...]
    """Seeds of experts of reinforcement learning."""


SIZES = {
    "small": Size((3,), 20, (("closings", "full"),), (0,), (10,), (10,), ()),
    "full": Size(
        (3, 5, 8),
        40,
        (("closings", "full"), ("places", "full"), ("closings", "lora")),
        (0, 1, 2),
        (10, 11, 12, 13, 14, 15, 16, 17),
        mixtures=(10, 11, 12),
        reinforced=(10, 11, 12),
    ),
}

Merges = Callable[[Set, int], Sequence[Merge]]
"""(set, number of experts) ↦ how they are merged."""


def phases(size: Size, results: Path) -> Iterator[tuple[list[Set], Merges]]:
    """The sets of each phase with their merges; what a phase has found decides the next one's."""
    tuning, reported = sets("tune", size), sets("report", size)
    alone = [*(each for merge in PUBLISHED for each in scaled(merge)), *choices()]
    yield tuning, lambda bench, experts: alone

    combined = combinations(read(tuning, results))
    yield tuning, lambda bench, experts: combined

    found = read(tuning, results)
    best, scales = best_forms(found), best_scales(found)
    yield (
        reported,
        lambda bench, experts: [
            *PUBLISHED,
            *WITHOUT,
            *best,
            *scales.get((bench.family, bench.kind, experts), ()),
        ],
    )


def sets(phase: str, size: Size) -> list[Set]:
    seeds = {"tune": size.tuning, "report": size.reported}[phase]
    found = [Set(phase, family, kind, seed) for seed in seeds for family, kind in size.families]
    if phase == "report":
        found += [Set(phase, "rl", "lipo", seed) for seed in size.reinforced]
    return found


def read(sets: Iterable[Set], results: Path) -> Results:
    return {bench: files.read(bench.file(results)) for bench in sets}


def carry_out(size: Size, output: Path, results: Path) -> None:
    """Does all that has no result yet and that nobody else works on.

    Raises SettingsDiffer, TrainingFailed, amm.InputError.
    """
    keep_settings(output, size)
    for among, merges in phases(size, results):
        while left := [bench for bench in among if undone(bench, merges, size, results)]:
            for bench in left:
                with suppress(FolderInUse), sole_launch(output / bench.name):
                    started = time.monotonic()
                    if not (wanted := undone(bench, merges, size, results)):
                        continue
                    examine(bench, wanted, size, output / bench.name, results)
                    minutes = (time.monotonic() - started) / 60
                    print(
                        f"{bench.name}: {len(wanted)} models in {minutes:.1f} minutes, "
                        f"{len(left)} of the {len(among)} sets of this phase were left",
                        flush=True,
                    )
            time.sleep(1)


def undone(bench: Set, merges: Merges, size: Size, results: Path) -> list[Row]:
    """What a phase wants of a set and is not there: rows without their figures."""
    wanted = {}
    for experts in size.experts:
        if experts > len(bench.skills()):
            continue
        rows = [Row(experts, "base"), Row(experts, "experts")]
        if bench.seed in size.mixtures and bench.family != "rl":
            rows.append(Row(experts, "mixture"))
        rows += [Row(experts, each.method, each.parameters) for each in merges(bench, experts)]
        wanted.update({row.key: row for row in rows})
    done = files.read(bench.file(results))
    return [row for key, row in wanted.items() if key not in done]


def examine(bench: Set, wanted: Sequence[Row], size: Size, folder: Path, results: Path) -> None:
    """Makes the set's experts and the models that are wanted, and adds a row for each."""
    skills = bench.skills()[: max(row.experts for row in wanted)]
    experts = [folder / f"expert-{number}" for number in range(len(skills))]
    for number, expert in enumerate(experts):
        if expert.exists():
            continue
        if bench.family == "rl":
            reinforce(skills[number].task, bench.seed, expert)
        else:
            tune([skills[number]], KINDS[bench.kind], SKILLS * bench.seed + number, expert)
    examination = Examination(skills, size.questions, bench.seed)
    rows = files.read(bench.file(results))
    for row in track(wanted, description=bench.name):
        if row.method == "experts":
            asked = [(expert, [number]) for number, expert in enumerate(experts[: row.experts])]
        else:
            asked = [(made(row, bench, experts, folder), range(row.experts))]
        marks = [examination.marks(load(model), numbers) for model, numbers in asked]
        rows[row.key] = replace(
            row,
            accuracy=[share for each in marks for share in each.accuracy],
            tokens=[mean for each in marks for mean in each.tokens],
        )
        files.write(bench.file(results), rows.values())


def made(row: Row, bench: Set, experts: Sequence[Path], folder: Path) -> Path:
    """The folder of a row's model."""
    if row.method == "base":
        return base_model.FOLDER
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    if row.method == "mixture":
        tuning = replace(KINDS[bench.kind], steps=MIXTURE_STEPS)
        tune(bench.skills()[: row.experts], tuning, bench.seed, model)
    else:
        amm.merge(
            base_model.FOLDER,
            experts[: row.experts],
            output=model,
            method=row.method,
            parameters=row.parameters,
            hash_inputs=False,
        )
    return model


def main() -> None:
    module = "examples.evidence.merging.bench"
    given = command.parser(module, __doc__, SIZES, "merging").parse_args()
    output, results = command.folders(given, "evidence-merging")
    torch.set_num_threads(1)  # the same experts and models however many cores there are
    disable_progress_bar()  # of loading and saving models
    logging.getLogger("amm").setLevel(logging.ERROR)  # which warns of norms, layer by layer
    try:
        carry_out(SIZES[given.size], output, results)
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command resumes.")
    except (SettingsDiffer, TrainingFailed, amm.InputError) as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
