"""From which step a run resumes.

    python -m examples.tiny_r1v.launch.resume verl|easyr1 CHECKPOINTS      # prints it, 0 for none

Both frameworks name their last checkpoint in a file that they write when it is whole. Where that
file was cut, or names a checkpoint that is damaged or gone, they would stumble over it, or start
anew without a word; then it is written again from the checkpoints that are whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from examples.whole import whole

LAST_FILE = {"verl": "data.pt", "easyr1": "dataloader.pt"}
"""What each framework writes into a checkpoint last."""

TRACKER = {"verl": "latest_checkpointed_iteration.txt", "easyr1": "checkpoint_tracker.json"}


def last_step(framework: str, checkpoints: Path, mend: bool = True) -> int:
    """The step of the checkpoint that the framework resumes from, 0 without one.

    mend: write the tracker again where it does not name a whole checkpoint, and say so
    """
    tracker = checkpoints / TRACKER[framework]
    named = named_step(framework, checkpoints)
    saved = [
        step for step, folder in step_folders(checkpoints).items() if _is_whole(framework, folder)
    ]
    if named in saved:
        return named
    step = max(saved, default=0)
    if not mend:
        return step
    if named is not None:
        print(
            f"{tracker} names step {named}, of which there is no whole checkpoint: "
            + (f"resuming from step {step}" if step else "starting anew"),
            file=sys.stderr,
        )
    if saved:
        with whole(tracker) as unfinished:
            last = step if framework == "verl" else {"last_global_step": step}
            unfinished.write_text(json.dumps(last))
    else:
        tracker.unlink(missing_ok=True)
    return step


def step_folders(checkpoints: Path) -> dict[int, Path]:
    """The folders ``global_step_N`` by N, whole or not."""
    named = {
        folder.name.removeprefix("global_step_"): folder
        for folder in checkpoints.glob("global_step_*")
    }
    return {int(step): folder for step, folder in named.items() if step.isdigit()}


def named_step(framework: str, checkpoints: Path) -> int | None:
    """The step that the framework's tracker names; None where it is not there, or cut."""
    try:
        text = (checkpoints / TRACKER[framework]).read_text()
        return int(text if framework == "verl" else json.loads(text)["last_global_step"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _is_whole(framework: str, folder: Path) -> bool:
    ranks = Counter(
        file.name.rpartition("_rank_")[0] for file in folder.glob("actor/*_world_size_*_rank_*.pt")
    )
    return (folder / LAST_FILE[framework]).exists() and all(
        kind.endswith(f"_world_size_{number}") for kind, number in ranks.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("framework", choices=TRACKER)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument(
        "--look", dest="mend", action="store_false", help="change nothing, say nothing else"
    )
    print(last_step(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
