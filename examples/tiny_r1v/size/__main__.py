"""Does a training run fit on these GPUs, with which settings, and how long does it take?

    python -m examples.tiny_r1v.size --model 3b --gpus 8 --gpu a100-80

All figures are estimates: docs/recipe/sizing.md. Ends with 1 where the run does not fit, with 2 for
a wrong argument.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from examples.tiny_r1v.size import choice, estimate, frameworks
from examples.tiny_r1v.size.choice import Fit
from examples.tiny_r1v.size.estimate import GB, GPUS, Gpu, Run, Times
from examples.tiny_r1v.size.shapes import BUILT_IN, Shape, SizeError, shape

DOES_NOT_FIT, BAD_INPUT = 1, 2

LABELS = {
    "weights": "weights, fp32, sharded",
    "gradients": "gradients, fp32, sharded",
    "moments": "Adam's moments, fp32, sharded",
    "gathered": "layers gathered, bf16",
    "activations": "activations, checkpointed",
    "logits": "logits and their gradients",
    "step": "(Adam's step, after these)",
    "vllm_weights": "vLLM: weights, bf16",
    "vllm_workspace": "vLLM: graphs, activations",
    "cache": "vLLM: KV cache",
    "reserved": "CUDA, NCCL, sleeping vLLM",
}


def report(shape: Shape, run: Run, gpu: Gpu, console: Console) -> int:
    """Prints tables and settings, or what to change; returns the exit code."""
    found = choice.choose(shape, run, gpu)
    trained = f", {shape.adapters(run.lora_rank) / 1e6:.0f}e6 in adapters" if run.lora_rank else ""
    console.print(
        f"{shape.parameters / 1e9:.2f}e9 parameters{trained}, "
        f"{run.gpus} × {gpu.memory / GB:.0f} GB; "
        f"{run.batch} prompts × {run.rollouts} responses, {run.prompt} + {run.response} tokens. "
        "Estimates."
    )
    if not found:
        console.print("\n[bold]It does not fit.[/bold]")
        for line in choice.remedies(shape, run, gpu):
            console.print(f"- {line}")
        return DOES_NOT_FIT
    console.print(_table("GB on each GPU", ["training", "generation"], _memory(found)))
    times = estimate.times(shape, run, found.setting, gpu, found.generation.cache)
    console.print(_table("Time", [""], _time(times, run)))
    host = estimate.host_bytes(shape, run, found.setting)
    console.print(
        f"Offloaded into the nodes' memory, all together: {host / GB:.0f} GB. vLLM generates "
        f"{min(found.concurrent, estimate.MAX_SEQUENCES)} answers of full length at a time. A "
        f"checkpoint takes {estimate.checkpoint_bytes(shape, run.lora_rank) / GB:.0f} GB of disk.\n"
    )
    for name in ("verl", "EasyR1"):
        console.print(f"{name}:")
        for line in frameworks.overrides(name.lower(), run, found.setting):
            console.print(f"  {line}")
    return 0


def _memory(found: Fit) -> dict[str, list[str]]:
    """GB of one GPU in training and in generation, by what takes them."""
    phases = (found.training, found.generation)
    parts = {label: [getattr(each, part, 0.0) for each in phases] for part, label in LABELS.items()}
    rows = {label: [f"{n / GB:.1f}" if n else "" for n in both] for label, both in parts.items()}
    return rows | {
        "peak of what comes and goes": [f"{found.training.fleeting / GB:.1f}"],
        "[bold]total": [f"{each.total / GB:.1f}" for each in phases],
        "of": [f"{found.gpu_memory / GB:.1f}"] * 2,
    }


def _time(times: Times, run: Run) -> dict[str, list[str]]:
    """Seconds of a step, and GPU hours of the run."""
    hours = run.steps * times.step / 3600
    seconds = {
        "generation": times.generation,
        "log probabilities": times.log_probs,
        "update": times.update,
        "everything else": times.overhead,
        "[bold]a step": times.step,
    }
    return {label: [f"{n:.0f} s"] for label, n in seconds.items()} | {
        f"{run.steps} steps": [f"{hours:.1f} hours"],
        "[bold]on all GPUs": [f"{hours * run.gpus:.0f} GPU hours"],
    }


def _table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """Rows by their labels; a row whose label is bold is bold."""
    table = Table("", title=title, title_justify="left", box=SIMPLE)
    for name in columns:
        table.add_column(name, justify="right")
    for label, cells in rows.items():
        table.add_row(label, *cells, style="bold" if label.startswith("[bold]") else "")
    return table


def gigabytes(text: str) -> float:
    """Bytes from ``80``, ``80GB`` or ``80 GB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB)?", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 80GB")
    return float(found[1]) * GB


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.tiny_r1v.size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="3b", help=f"{', '.join(BUILT_IN)}, or a model's folder")
    parser.add_argument("--gpus", type=_positive, default=8, help="over all nodes; default 8")
    parser.add_argument("--gpu", choices=GPUS, default="a100-80", help="default a100-80")
    parser.add_argument("--gpu-memory", type=gigabytes, help="80GB, if other than that of --gpu")
    numbers = {
        "batch": (512, "prompts per step"),
        "rollouts": (6, "responses per prompt"),
        "prompt": (2048, "longest prompt in tokens, pictures included"),
        "response": (2048, "longest response"),
        "image": (frameworks.IMAGE, "tokens of the largest pictures of a prompt"),
        "mean-prompt": (frameworks.MEAN_PROMPT, "mean prompt, for the time"),
        "mean-response": (frameworks.MEAN_RESPONSE, "mean response, for the time"),
        "steps": (120, "training steps"),
    }
    for name, (default, what) in numbers.items():
        parser.add_argument(f"--{name}", type=_positive, default=default, help=f"{what}; {default}")
    parser.add_argument(
        "--lora-rank",
        type=_positive,
        default=0,
        help="adapters of this rank beside frozen weights; default: all weights are trained",
    )
    parser.add_argument("--no-reference", action="store_true", help="no KL, no reference model")
    parser.add_argument("--fused", action="store_true", help="verl's use_fused_kernels")
    return parser


def main() -> None:
    arguments = _parser().parse_args()
    gpu = GPUS[arguments.gpu]
    if arguments.gpu_memory:
        gpu = replace(gpu, memory=arguments.gpu_memory)
    try:
        if arguments.image > arguments.prompt:
            raise SizeError(
                f"--image {arguments.image} is more than --prompt {arguments.prompt}, which counts "
                "pictures too."
            )
        run = Run(
            **{f.name: getattr(arguments, f.name) for f in fields(Run) if f.name != "reference"},
            reference=not arguments.no_reference,
        )
        sys.exit(report(shape(arguments.model), run, gpu, Console(highlight=False, soft_wrap=True)))
    except SizeError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
