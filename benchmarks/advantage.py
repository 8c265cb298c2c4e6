"""LIPO's time beside the hosts' own GRPO estimators, the floor and the other schemes, in one run.

    python benchmarks/advantage.py [--easyr1 CHECKOUT] [--entries N]

The floor is the least that any estimator of this kind does: one masked sum over the rewards and one
write of the advantages. Each estimator runs once per round, in an order drawn anew for each, as
what ran before leaves the caches warm for its like; a time is the median over the rounds, a ratio
the median of the ratios within a round. Small batches run more rounds, so that every size gets
about the same time. On the CPU, and on CUDA where there is one.
"""

import argparse
import functools
import importlib
import os
import random
import statistics
import sys
import time
import types
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

os.environ.setdefault("VERL_PLATFORM", "cpu" if not torch.cuda.is_available() else "cuda")

from verl.trainer.ppo import core_algos

from lipo_verl.batch import Memory, token_advantages
from lipo_verl.config import LipoConfig
from lipo_verl.metrics import lipo_metrics
from lipo_verl.schemes import schemes
from lipo_verl.verl_plugin import compute_lipo_advantage

SIZES = ((64, 512), (256, 1024), (1024, 2048), (4096, 512), (4096, 2048), (8192, 4096))
GROUP = 8
BUDGET = {"response_budget": 512}
ALGORITHM = OmegaConf.create({"lipo": BUDGET})
NEEDED = {"laser": {"target_length": 256}}
"""Settings without a default."""
SLOW_ROUNDS = 3
"""Rounds that the estimators with a Python loop take part in."""


def batch(
    responses: int, tokens: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """(token_level_rewards (B, T) float32, response_mask (B, T) int64, uids (B,)), shuffled."""
    rng = np.random.default_rng(0)
    uids = np.repeat(
        [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(responses // GROUP)], GROUP
    )
    uids = rng.permutation(uids.astype(object))
    lengths = torch.from_numpy(rng.integers(1, tokens + 1, responses))
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    rewards = torch.zeros(responses, tokens)
    rewards[torch.arange(responses), lengths - 1] = torch.from_numpy(
        rng.integers(0, 2, responses)
    ).float()
    return rewards.to(device), mask.to(device), uids


def floor(rewards: torch.Tensor, mask: torch.Tensor, _: np.ndarray) -> torch.Tensor:
    """One masked sum over the rewards, one write of the advantages."""
    return (rewards * mask).sum(-1, keepdim=True).expand_as(rewards).contiguous()


def easyr1_grpo(checkout: Path) -> Callable:
    """EasyR1's GRPO from a checkout, beside the installed verl: both are called `verl`."""
    for name in ("", ".trainer", ".utils"):
        package = types.ModuleType("easyr1" + name)
        package.__path__ = [str(checkout.joinpath("verl", *name.split(".")))]
        sys.modules[package.__name__] = package
    return importlib.import_module("easyr1.trainer.core_algos").compute_grpo_outcome_advantage


def seconds(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(
    estimators: dict[str, Callable], slow: set[str], size: tuple[int, int], rounds: int, device: str
) -> dict[str, list[float]]:
    """Seconds of every round, per estimator; the first round, a warm-up, is left out."""
    given = batch(*size, device)
    times: dict[str, list[float]] = {name: [] for name in estimators}
    rng = random.Random(0)
    for k in range(rounds + 1):
        for name in rng.sample(list(estimators), len(estimators)):
            if name in slow and k > SLOW_ROUNDS:
                continue
            times[name].append(seconds(lambda e=estimators[name]: e(*given), device))
    return {name: of_round[1:] for name, of_round in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--easyr1", type=Path, default=os.environ.get("EASYR1_HOME"))
    parser.add_argument(
        "--entries",
        type=int,
        default=2**27,
        help="rounds x responses x tokens, the same for every size (default 2^27)",
    )
    options = parser.parse_args()

    estimators = {
        "LIPO": functools.partial(compute_lipo_advantage, config=ALGORITHM),
        "floor": floor,
        "verl grpo_vectorized": core_algos.compute_grpo_vectorized_outcome_advantage,
        "verl grpo": core_algos.compute_grpo_outcome_advantage,
    }
    if options.easyr1:
        estimators["EasyR1 grpo"] = easyr1_grpo(Path(options.easyr1).resolve())
    slow = {"verl grpo", "EasyR1 grpo"}
    peers = [name for name in estimators if name != "LIPO"]

    console = Console(width=130)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        table = Table(title=f"LIPO's time / another's, {device}, groups of {GROUP}")
        table.add_column("batch", justify="right")
        table.add_column("LIPO ms", justify="right")
        for name in peers:
            table.add_column(f"/ {name}", justify="right")
        table.add_column("metrics ms", justify="right")
        for size in SIZES:
            rounds = max(options.entries // (size[0] * size[1]), SLOW_ROUNDS)
            times = measure(estimators, slow, size, rounds, device)
            ratios = [
                statistics.median(a / b for a, b in zip(times["LIPO"], times[name], strict=False))
                for name in peers
            ]
            _, groups = token_advantages(*batch(*size, device), LipoConfig())
            metrics = statistics.median(
                seconds(lambda g=groups: lipo_metrics(g), device) for _ in range(20)
            )
            table.add_row(
                f"{size[0]} x {size[1]}",
                f"{statistics.median(times['LIPO']) * 1e3:.2f}",
                *(f"{ratio:.3f}" if ratio < 0.1 else f"{ratio:.2f}" for ratio in ratios),
                f"{metrics * 1e3:.2f}",
            )
        console.print(table)
    compare_schemes(options.entries, console)


def compare_schemes(entries: int, console: Console) -> None:
    """Each scheme's time over LIPO's, on the CPU, where the arithmetic runs in any case.

    Through `token_advantages`: verl's entry announces settings that it has not seen before.
    """
    configs = {
        scheme.name: LipoConfig(scheme=scheme.name, **BUDGET, **NEEDED.get(scheme.name, {}))
        for scheme in schemes()
    }
    configs["lipo, batch"] = LipoConfig(normalization="batch", **BUDGET)
    configs["lipo, keep 4"] = LipoConfig(keep=4, **BUDGET)
    estimators = {
        name: functools.partial(token_advantages, config=config, memory=Memory())
        for name, config in configs.items()
    }
    table = Table(title=f"A scheme's time / LIPO's, cpu, groups of {GROUP}")
    table.add_column("batch", justify="right")
    names = [name for name in configs if name != "lipo"]
    for name in names:
        table.add_column(name, justify="right")
    for size in SIZES:
        rounds = max(entries // (size[0] * size[1]), SLOW_ROUNDS)
        times = measure(estimators, set(), size, rounds, "cpu")
        ratios = [
            statistics.median(a / b for a, b in zip(times[name], times["lipo"], strict=True))
            for name in names
        ]
        table.add_row(f"{size[0]} x {size[1]}", *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)


if __name__ == "__main__":
    main()
