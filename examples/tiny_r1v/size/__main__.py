"""Does a training run fit on these GPUs, with which settings, and how long does it take?

    python -m examples.tiny_r1v.size --model 3b --gpus 8 --gpu a100-80

All figures are estimates: docs/recipe/sizing.md. Ends with 1 where the run does not fit, with 2 for
a wrong argument.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields, replace

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from examples.tiny_r1v.size import choice, estimate, frameworks
from examples.tiny_r1v.size.choice import Fit
from examples.tiny_r1v.size.estimate import GB, GPUS, Generation, Gpu, Run, Training
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
    console.print(
        f"{shape.parameters / 1e9:.2f}e9 parameters, {run.gpus} × {gpu.memory / GB:.0f} GB; "
        f"{run.batch} prompts × {run.rollouts} responses, {run.prompt} + {run.response} tokens. "
        "Estimates.",
        highlight=False,
        soft_wrap=True,
    )
    if not found:
        console.print("\n[bold]It does not fit.[/bold]")
        for line in choice.remedies(shape, run, gpu):
            console.print(f"- {line}", highlight=False, soft_wrap=True)
        return DOES_NOT_FIT
    console.print(memory_table(found))
    console.print(time_table(shape, run, found, gpu))
    host = estimate.host_bytes(shape, run, found.setting)
    console.print(
        f"Offloaded into the nodes' memory, all together: {host / GB:.0f} GB. vLLM generates "
        f"{min(found.concurrent, estimate.MAX_SEQUENCES)} answers of full length at a time. A "
        f"checkpoint takes {estimate.checkpoint_bytes(shape) / GB:.0f} GB of disk.\n",
        highlight=False,
        soft_wrap=True,
    )
    for name, overrides in (("verl", frameworks.verl), ("EasyR1", frameworks.easyr1)):
        console.print(f"{name}:", highlight=False)
        for line in overrides(run, found.setting):
            console.print(f"  {line}", highlight=False, soft_wrap=True)
    return 0


def memory_table(found: Fit) -> Table:
    """GB of one GPU in both phases."""
    table = Table(title="GB on each GPU", title_justify="left", box=SIMPLE)
    table.add_column("")
    table.add_column("training", justify="right")
    table.add_column("generation", justify="right")
    for part, label in LABELS.items():
        table.add_row(label, _gb(found.training, part), _gb(found.generation, part))
    table.add_row("peak of what comes and goes", f"{found.training.fleeting / GB:.1f}", "")
    totals = (f"{each.total / GB:.1f}" for each in (found.training, found.generation))
    table.add_row("total", *totals, style="bold")
    table.add_row("of", f"{found.gpu_memory / GB:.1f}", f"{found.gpu_memory / GB:.1f}")
    return table


def time_table(shape: Shape, run: Run, found: Fit, gpu: Gpu) -> Table:
    """Seconds of a step, and GPU hours of the run."""
    seconds = estimate.times(shape, run, found.setting, gpu, found.generation.cache)
    table = Table(title="Time", title_justify="left", box=SIMPLE)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("generation", f"{seconds.generation:.0f} s")
    table.add_row("log probabilities", f"{seconds.log_probs:.0f} s")
    table.add_row("update", f"{seconds.update:.0f} s")
    table.add_row("everything else", f"{seconds.overhead:.0f} s")
    table.add_row("a step", f"{seconds.step:.0f} s", style="bold")
    hours = run.steps * seconds.step / 3600
    table.add_row(f"{run.steps} steps", f"{hours:.1f} hours")
    table.add_row("on all GPUs", f"{hours * run.gpus:.0f} GPU hours", style="bold")
    return table


def gigabytes(text: str) -> float:
    """Bytes from ``80``, ``80GB`` or ``80 GB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB)?", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 80GB")
    return float(found[1]) * GB


def _gb(memory: Training | Generation, part: str) -> str:
    value = getattr(memory, part, 0.0)
    return f"{value / GB:.1f}" if value else ""


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
    parser.add_argument("--no-reference", action="store_true", help="no KL, no reference model")
    parser.add_argument("--fused", action="store_true", help="verl's use_fused_kernels")
    return parser


def main() -> None:
    """Runs what the command line asks for."""
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
        sys.exit(report(shape(arguments.model), run, gpu, Console()))
    except SizeError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
