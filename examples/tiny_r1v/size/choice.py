"""The settings that fit, as frugal as need be and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from examples.tiny_r1v.size import estimate
from examples.tiny_r1v.size.estimate import GB, Generation, Gpu, Run, Setting, Training
from examples.tiny_r1v.size.shapes import Shape

MICRO_TOKENS = (16384, 12288, 8192, 6144, 4096, 3072, 2048)
UTILIZATIONS = (0.7, 0.6, 0.5, 0.4, 0.3)
TENSOR_PARALLEL = (1, 2, 4, 8)
OFFLOADS = ((False, False, False), (True, False, False), (True, True, False), (False, False, True))
"""Moments, weights, everything all the time; the later, the slower."""
LEAST_CONCURRENT = 32
"""[ours] With fewer answers at a time on a GPU, generation crawls."""
MOST_GPUS = 1024


@dataclass(frozen=True)
class Fit:
    """A setting with its memory, and whether it fits."""

    setting: Setting
    training: Training
    generation: Generation
    concurrent: int
    gpu_memory: float

    @property
    def trains(self) -> bool:
        return self.training.total <= self.gpu_memory

    @property
    def generates(self) -> bool:
        return self.generation.total <= self.gpu_memory and self.concurrent >= LEAST_CONCURRENT

    @property
    def fits(self) -> bool:
        return self.trains and self.generates


def fit(shape: Shape, run: Run, setting: Setting, gpu: Gpu) -> Fit:
    """The memory of a setting."""
    generation = estimate.generation_memory(shape, run, setting, gpu.memory)
    return Fit(
        setting,
        estimate.training_memory(shape, run, setting),
        generation,
        estimate.concurrent(shape, run, setting, generation.cache),
        gpu.memory,
    )


def choose(shape: Shape, run: Run, gpu: Gpu) -> Fit | None:
    """The first setting that fits, or None.

    Preferred, in this order: no offloading; a whole vLLM on each GPU; large micro batches; a large
    share for vLLM.
    """
    every = (fit(shape, run, setting, gpu) for setting in settings(shape, run))
    return next((each for each in every if each.fits), None)


def frugal(shape: Shape, run: Run, gpu: Gpu) -> Fit:
    """The setting that takes the least memory for training, and generates if any does."""
    found = [fit(shape, run, setting, gpu) for setting in settings(shape, run)]
    return min(found, key=lambda each: (each.training.total, not each.generates))


def settings(shape: Shape, run: Run) -> Iterator[Setting]:
    """All that may be tried, the preferred first. A micro batch holds the longest sequence."""
    for moments, weights, everything in OFFLOADS:
        for tensor_parallel in TENSOR_PARALLEL:
            if run.gpus % tensor_parallel or shape.heads % tensor_parallel:
                continue
            for tokens in micro_tokens(run):
                for share in UTILIZATIONS:
                    yield Setting(tokens, moments, weights, everything, tensor_parallel, share)


def micro_tokens(run: Run) -> list[int]:
    """Sizes of micro batches that hold the longest sequence, which is the smallest of them."""
    return [*(tokens for tokens in MICRO_TOKENS if tokens > run.sequence), run.sequence]


def remedies(shape: Shape, run: Run, gpu: Gpu) -> list[str]:
    """What would make a run fit that doesn't, each by itself."""
    least = frugal(shape, run, gpu)
    lines = []
    if not least.trains:
        lines.append(
            f"training takes {least.training.total / GB:.0f} GB on each GPU of "
            f"{gpu.memory / GB:.0f} GB, with everything offloaded and one sequence at a time; "
            f"{least.training.logits / GB:.0f} GB of them are logits"
        )
    if not least.generates:
        lines.append(
            f"vLLM has room for {max(0, least.concurrent)} answers of full length at a time, which "
            f"is less than {LEAST_CONCURRENT}"
        )
    more = run.gpus
    while more < MOST_GPUS:
        more *= 2
        if choose(shape, replace(run, gpus=more), gpu):
            lines.append(f"--gpus {more} fits")
            break
    shorter = run.response
    while shorter > 256:
        shorter //= 2
        if choose(shape, replace(run, response=shorter), gpu):
            lines.append(f"--response {shorter} fits")
            break
    roomier = sorted({each.memory for each in estimate.GPUS.values() if each.memory > gpu.memory})
    for memory in roomier:
        if choose(shape, run, replace(gpu, memory=memory)):
            lines.append(f"--gpu-memory {memory / GB:.0f}GB fits")
            break
    return lines
