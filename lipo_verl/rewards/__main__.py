"""`python -m lipo_verl.rewards verl|easyr1` prints what names the reward in a configuration."""

import argparse
from pathlib import Path

ENTRIES = {"verl": "for_verl.py", "easyr1": "for_easyr1.py:compute_score"}


def main() -> None:
    """Print the value of `reward.custom_reward_function.path` or of
    `worker.reward.reward_function`."""
    parser = argparse.ArgumentParser(prog="python -m lipo_verl.rewards", description=main.__doc__)
    parser.add_argument("framework", choices=ENTRIES)
    print(f"{Path(__file__).parent}/{ENTRIES[parser.parse_args().framework]}")


if __name__ == "__main__":
    main()
