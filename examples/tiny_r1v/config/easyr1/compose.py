"""One EasyR1 file out of the recipe's pieces; EasyR1 itself takes a single one.

    python -m examples.tiny_r1v.config.easyr1.compose --algorithm lipo --expert math --gpus 8 \
        --data DATA --output RUN --target RUN/easyr1.yaml

Later pieces win: common, machine, expert, algorithm.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from examples.whole import whole

HERE = Path(__file__).parent
MACHINES = [int(path.stem.removeprefix("gpus_")) for path in HERE.glob("machine/gpus_*.yaml")]


def compose(*, algorithm: str, expert: str, gpus: int, data: Path, output: Path) -> DictConfig:
    """The configuration of one run, its paths absolute. Of the interpolations, those of the section
    ``recipe`` are resolved; the others are left to EasyR1, which knows the command line's settings.

    algorithm, expert: names of files in the folders of the same name
    gpus:              of a node; the machine's file is the last that asks for no more

    Raises FileNotFoundError for a piece that is not there.
    """
    machine = max(number for number in MACHINES if number <= gpus)
    pieces = ["common", f"machine/gpus_{machine}", f"expert/{expert}", f"algorithm/{algorithm}"]
    config = OmegaConf.merge(*(OmegaConf.load(HERE / f"{piece}.yaml") for piece in pieces))
    config.recipe.data, config.recipe.output = str(data.resolve()), str(output.resolve())
    config.worker.reward.reward_function = f"{HERE / 'reward.py'}:compute_score"
    config.trainer.experiment_name = f"{algorithm}-{expert}"
    config.trainer.n_gpus_per_node = gpus
    config = _without_recipe(
        OmegaConf.to_container(config), OmegaConf.to_container(config, resolve=True)
    )
    del config["recipe"]
    return OmegaConf.create(config)


def _without_recipe(node: Any, resolved: Any) -> Any:
    """``node`` with the values that it has from ``recipe`` in place."""
    if isinstance(node, dict):
        return {key: _without_recipe(node[key], resolved[key]) for key in node}
    return resolved if isinstance(node, str) and "${recipe." in node else node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("algorithm", "expert"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--gpus", type=int, required=True, help="per node")
    for name in ("data", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True, help="the file to write")
    arguments = vars(parser.parse_args())
    target = arguments.pop("target")
    try:
        config = compose(**arguments)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: the recipe has no such piece")
    with whole(target) as unfinished:
        OmegaConf.save(config, unfinished)


if __name__ == "__main__":
    main()
