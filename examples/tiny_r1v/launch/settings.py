"""Keeps a run's folder to the settings that it was started with.

    python -m examples.tiny_r1v.launch.settings OUTPUT MODULE ARGUMENT ...

MODULE and its arguments are the command that is about to train. What it would train with, as the
framework composes it, is recorded in OUTPUT/settings.json; where a run with another record has
begun in that folder, each setting that differs is named, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from examples.run_folder import RECORD, SettingsDiffer, keep_settings

EASYR1 = ("verl.trainer.main", "lipo_verl.easyr1")

STEPS = ("trainer.total_training_steps", "trainer.max_steps")
"""How long a run is, in verl and in EasyR1. It may become longer where the command itself says so:
a short trial must not pass for the beginning of the real run."""

MAY_DIFFER = (
    # where it runs
    *("trainer.nnodes", "trainer.n_gpus_per_node", "ray_kwargs.*", "*.fsdp_size", "*_workers"),
    # how it fits in there
    *("*micro_batch_size*", "*max_token_len_per_gpu", "*offload*", "*parallel_size"),
    *("*.gpu_memory_utilization", "*.enforce_eager", "*.free_cache_engine", "*max_num_seqs"),
    *("*max_num_batched_tokens", "*use_torch_compile", "*.enable_gradient_checkpointing"),
    *("*use_fused_kernels", "*fused_kernel_options*"),
    # what it writes, and where
    *("recipe.output", "trainer.save_checkpoint_path", "trainer.*_name", "trainer.logger"),
    *("trainer.*_freq", "trainer.save_limit", "trainer.max_*_ckpt_to_keep", "recipe.*_every"),
    *("trainer.checkpoint_callback_class", "recipe.save_from"),
    *("trainer.val_before_train", "trainer.val_generations_to_log", "*profiler.*", "*.trace.*"),
    # what STEPS come from, and RESUMES
    *("recipe.*_steps", "trainer.resume_*", "trainer.find_last_*", "trainer.load_checkpoint_path"),
)

RESUMES = {
    "trainer.resume_mode": "auto",
    "trainer.find_last_checkpoint": True,
    "trainer.load_checkpoint_path": None,
}
"""Under other values the framework passes the run's own checkpoints by."""


class NotComposed(ValueError):
    """The framework cannot put the configuration together."""


def composed(module: str, arguments: Sequence[str]) -> DictConfig:
    """The command's configuration, as the framework reads it. Raises NotComposed."""
    return _easyr1(arguments) if module in EASYR1 else _verl(module, arguments)


def settings(config: DictConfig) -> dict[str, Any]:
    """What a run is held to, by dotted names: all but what MAY_DIFFER. Interpolations stay, so that
    what follows from another setting is not named beside it."""
    flat = {
        name: value
        for name, value in leaves(OmegaConf.to_container(config))
        if not any(fnmatch(name, pattern) for pattern in MAY_DIFFER)
    }
    return flat | {name: OmegaConf.select(config, name) or 0 for name in STEPS if name in flat}


def leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What is nested in dicts, by dotted names."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


def _easyr1(arguments: Sequence[str]) -> DictConfig:
    """The recipe's file under the command line; EasyR1's own defaults are its code."""
    try:
        given = OmegaConf.from_dotlist(list(arguments))
        return OmegaConf.merge(OmegaConf.load(given.pop("config")), given)
    except (OmegaConfBaseException, YAMLError) as error:
        raise NotComposed(f"EasyR1 cannot read these settings: {error}") from None


def _verl(module: str, arguments: Sequence[str]) -> DictConfig:
    spec = importlib.util.find_spec("verl")
    folders = [Path(each) / "trainer/config" for each in spec.submodule_search_locations or ()]
    folder = next((each for each in folders if (each / "ppo_trainer.yaml").exists()), None)
    if folder is None:
        raise NotComposed(
            f"{sys.executable} finds no verl 0.9, which this run needs: docs/recipe.md. "
            "PYTHON=… in front names another interpreter."
        )
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    from lipo_verl.cpu.launch import ARGUMENTS

    places = [
        "file://" + argument.removeprefix("--config-dir=")
        for argument in arguments
        if argument.startswith("--config-dir=")
    ]
    overrides = [each for each in arguments if not each.startswith(("-", "hydra."))]
    if module == "lipo_verl.cpu":
        (search_path, *platform) = ARGUMENTS
        places.append(re.sub(r"hydra\.searchpath=\[(.*)\]", r"\1", search_path))
        overrides = [*platform, *overrides]
    quoted = ",".join(QuotedString(place, Quote.single).with_quotes() for place in places)
    try:
        with initialize_config_dir(str(folder), version_base=None):
            return compose("ppo_trainer", [f"hydra.searchpath=[{quoted}]", *overrides])
    except HydraException as error:
        raise NotComposed(f"verl cannot read these settings: {error}") from None


def keep(output: Path, module: str, arguments: Sequence[str]) -> None:
    """Records the settings, or compares them with those of the run that has begun in ``output``.

    Raises SettingsDiffer, NotComposed.
    """
    config = composed(module, arguments)
    saved = any(output.glob("checkpoints/global_step_*"))
    logged = any(file.stat().st_size for file in output.glob("metrics-from-*.jsonl"))
    if not (saved or logged):
        (output / RECORD).unlink(missing_ok=True)
    elif not (output / RECORD).exists():
        raise SettingsDiffer(
            f"{output} holds a run, and no {RECORD} that says under which settings it was "
            "trained. Remove that folder, or choose another one with --output."
        )
    for name, value in RESUMES.items():
        if saved and (given := OmegaConf.select(config, name, default=value)) != value:
            raise SettingsDiffer(
                f"{output} holds checkpoints, and {name}={given} would train over them from "
                "elsewhere. Leave it out to resume from them, or choose another folder with "
                "--output."
            )
    names = "|".join(map(re.escape, STEPS))
    longer = any(re.match(rf"\+*({names}|recipe\.\w+_steps)=", each) for each in arguments)
    keep_settings(output, settings(config), may_grow=STEPS if longer else ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    try:
        keep(**vars(parser.parse_args()))
    except (SettingsDiffer, NotComposed) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
