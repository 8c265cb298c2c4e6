"""From which step a run goes on.

    python -m examples.tiny_r1v.launch.resume verl|easyr1 CHECKPOINTS      # prints it, 0 for none

Both frameworks name their last checkpoint in a file that they write when it is whole. Where an
interruption cut that file, they would stumble over it; then it is written again from the folders.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

LAST_FILE = {"verl": "data.pt", "easyr1": "dataloader.pt"}
"""What each framework writes into a checkpoint last."""

TRACKER = {"verl": "latest_checkpointed_iteration.txt", "easyr1": "checkpoint_tracker.json"}


def last_step(framework: str, checkpoints: Path) -> int:
    """The step of the last whole checkpoint, 0 without one; mends a tracker that was cut."""
    tracker = checkpoints / TRACKER[framework]
    if not tracker.exists():
        return 0
    try:
        text = tracker.read_text()
        return int(text if framework == "verl" else json.loads(text)["last_global_step"])
    except (ValueError, KeyError, TypeError):
        pass
    whole = [
        int(file.parent.name.removeprefix("global_step_"))
        for file in checkpoints.glob(f"global_step_*/{LAST_FILE[framework]}")
    ]
    step = max(whole, default=0)
    if not whole:
        tracker.unlink()
    elif framework == "verl":
        tracker.write_text(str(step))
    else:
        tracker.write_text(json.dumps({"last_global_step": step}))
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("framework", choices=TRACKER)
    parser.add_argument("checkpoints", type=Path)
    print(last_step(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
