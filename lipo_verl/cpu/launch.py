"""Runs verl's trainer on the CPU platform, as a child that leaves nothing behind."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from lipo_verl.processes import leave_nothing

ARGUMENTS = ("hydra.searchpath=[pkg://lipo_verl.cpu.config]", "+platform=cpu")

JOINING = ("ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null")
"""What a Ray cluster that is there already has said for itself."""


def run_main_ppo(
    overrides: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> int:
    """Run `verl.trainer.main_ppo` on the CPU platform and return its exit code.

    Every process that the run started, also those that Ray and vLLM detach, has ended when this
    returns or raises; SIGTERM is treated as Ctrl-C.

    Args:
        overrides: Hydra overrides, as verl takes them; they win over the CPU configuration. Hydra's
            own options may stand among them, each in one word (`--config-dir=DIR`).
        environment: set in the run's processes beside this one's environment. RAY_ADDRESS names a
            Ray cluster that is there; `--num-gpus` of its `ray start` are the node's ranks.
        output: where standard output and error go; None: this process's own.
    """
    options = [argument for argument in overrides if argument.startswith("-")]
    overrides = [argument for argument in overrides if not argument.startswith("-")]
    environment = {**os.environ, **(environment or {}), "VERL_PLATFORM": "cpu"}
    platform = ARGUMENTS + (JOINING if environment.get("RAY_ADDRESS") else ())
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *options, *platform, *overrides]
    with leave_nothing():
        # A session of its own: Ctrl-C reaches this process alone, which then ends the run in order.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )
        return process.wait()
