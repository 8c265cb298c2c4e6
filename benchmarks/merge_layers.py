"""The solver of WUDI and AMM beside the naive loop, layer by layer, in one run; needs torch alone.

    python benchmarks/merge_layers.py [--device cuda] [--experts K]

The naive loop is WUDI as published: 300 steps of Adam on the loss as it is written, by autograd.
First table: an eighth of the size of Qwen2.5-VL-3B's layers, everything runs whole: how far from
the naive loop's end ours ends, in lengths of its path, and what loss is left. Second table: the
true shapes, and the sum over the model's layers, without reading and writing of checkpoints.
On a CPU the naive loop runs one step there and is scaled to 300; ours run whole.
"""

import argparse
import math
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from amm.methods.amm import AmmSettings, amm
from amm.methods.descent import Interference, common_rms
from amm.methods.wudi import WudiSettings, wudi

SHAPES = {
    "q, o": (2048, 2048),
    "k, v": (256, 2048),
    "gate, up": (11008, 2048),
    "down": (2048, 11008),
    "vision qkv": (3840, 1280),
    "vision proj": (1280, 1280),
    "vision gate, up": (3420, 1280),
    "vision down": (1280, 3420),
    "merger 0": (5120, 5120),
    "merger 2": (2048, 5120),
}
COUNTS = dict(zip(SHAPES, (72, 72, 72, 36, 32, 32, 64, 32, 1, 1), strict=True))
"""Weights of each shape in Qwen2.5-VL-3B."""

STEPS = 300


def experts(shape: tuple[int, int], count: int, device: str, shrink: int = 1) -> Tensor:
    """Task vectors, count x out x in, RMS about 1e-5: partly shared low rank, partly noise."""
    rows, columns = (side // shrink for side in shape)
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    rank = max(4, min(rows, columns) // 16)
    spectrum, shared = torch.exp(-3 * torch.arange(rank) / rank), normal(rank, columns)
    vectors = []
    for _ in range(count):
        low = normal(rows, rank) * spectrum @ (0.5 * shared + normal(rank, columns))
        vectors.append(1e-5 * (low / low.square().mean().sqrt() + 0.5 * normal(rows, columns)))
    return torch.stack(vectors).to(device)


def naive_wudi(vectors: Tensor, steps: int) -> Tensor:
    """Adam on the loss as written, in units of the common RMS, by autograd."""
    unit = common_rms(vectors)
    vectors = vectors / unit
    tau = vectors.sum(0).requires_grad_()
    adam = torch.optim.Adam([tau], lr=0.01, eps=1e-5)
    for _ in range(steps):
        adam.zero_grad()
        sum(((tau - t) @ t.T).square().sum() / t.square().sum() for t in vectors).backward()
        adam.step()
    return tau.detach() * unit


def seconds(call, device: str) -> float:
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def speed(count: int, device: str) -> Table:
    steps = 1 if device == "cpu" else STEPS
    title = f"Seconds for a layer, K = {count}, {device}; naive: {steps} of {STEPS} steps run"
    table = Table(title=title)
    for name in ("layer", "shape", "naive WUDI", "WUDI", "naive / ours", "AMM", "naive / ours"):
        table.add_column(name, justify="right")
    total = [0.0, 0.0]
    for name, shape in SHAPES.items():
        vectors = experts(shape, count, device)
        wudi(experts((64, 64), count, device), WudiSettings())
        naive = seconds(lambda v=vectors: naive_wudi(v, steps), device) / steps * STEPS
        ours = [
            seconds(lambda v=vectors: wudi(v, WudiSettings()), device),
            seconds(lambda v=vectors: amm(v, AmmSettings()), device),
        ]
        total = [whole + COUNTS[name] * layer for whole, layer in zip(total, ours, strict=True)]
        table.add_row(
            name,
            "x".join(map(str, shape)),
            f"{naive:.0f}",
            f"{ours[0]:.1f}",
            f"{naive / ours[0]:.0f}",
            f"{ours[1]:.1f}",
            f"{naive / ours[1]:.0f}",
        )
    table.add_row(
        "all", str(sum(COUNTS.values())), "", f"{total[0]:.0f}", "", f"{total[1]:.0f}", ""
    )
    return table


def fidelity(count: int, device: str) -> Table:
    table = Table(title="An eighth of the size: distance from the end of the naive loop / its path")
    names = ("layer", "stride 1", "5", "10, default", "20", "loss left: naive", "default")
    for name in names:
        table.add_column(name, justify="right")
    for name, shape in SHAPES.items():
        vectors = experts(shape, count, device, shrink=8)
        layer = Interference(vectors / common_rms(vectors))
        start, end = vectors.sum(0), naive_wudi(vectors, STEPS)

        def left(tau: Tensor, layer: Interference = layer, vectors: Tensor = vectors) -> str:
            losses = layer.losses(tau / common_rms(vectors)).sum()
            return f"{math.log10(losses / layer.losses(layer.start).sum()):.3f}"

        merged = [wudi(vectors, WudiSettings(stride=stride)) for stride in (1, 5, 10, 20)]
        table.add_row(
            name,
            *(f"{(tau - end).norm() / (end - start).norm():.3f}" for tau in merged),
            left(end),
            left(merged[2]),
        )
    table.caption = "loss left: log10 of the loss at the end over the loss at the start"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--experts", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=100)
    console.print(fidelity(options.experts, options.device))
    console.print(speed(options.experts, options.device))


if __name__ == "__main__":
    main()
