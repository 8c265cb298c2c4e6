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

LAST_FILE = {"verl": "data.pt", "easyr1": "dataloader.pt"}
"""What each framework writes into a checkpoint last."""

TRACKER = {"verl": "latest_checkpointed_iteration.txt", "easyr1": "checkpoint_tracker.json"}


def last_step(framework: str, checkpoints: Path, mend: bool = True) -> int:
    """The step of the checkpoint that the framework resumes from, 0 without one.

    mend: write the tracker again where it does not name a whole checkpoint, and say so
    """
    tracker = checkpoints / TRACKER[framework]
    named = _named(framework, tracker)
    whole = {
        int(step): folder
        for folder in checkpoints.glob("global_step_*")
        if (step := folder.name.removeprefix("global_step_")).isdigit()
        and _is_whole(framework, folder)
    }
    if named in whole:
        return named
    step = max(whole, default=0)
    if not mend:
        return step
    if named is not None:
        print(
            f"{tracker} names step {named}, of which there is no whole checkpoint: "
            + (f"resuming from step {step}" if step else "starting anew"),
            file=sys.stderr,
        )
    if not whole:
        tracker.unlink(missing_ok=True)
    elif framework == "verl":
        tracker.write_text(str(step))
    else:
        tracker.write_text(json.dumps({"last_global_step": step}))
    return step


def _named(framework: str, tracker: Path) -> int | None:
    """The step that the tracker names; None where it is not there, or cut."""
    try:
        text = tracker.read_text()
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
