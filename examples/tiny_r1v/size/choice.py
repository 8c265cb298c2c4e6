"""The settings that fit, as frugal as need be and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product

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
MOST_GPUS, LEAST_RESPONSE = 1024, 256
"""No remedy goes further."""


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


def fits(shape: Shape, run: Run, gpu: Gpu) -> Iterator[Fit]:
    """All settings that may be tried, the preferred first: no offloading; a whole vLLM on each GPU;
    large micro batches, which hold the longest sequence at least; a large share for vLLM."""
    engines = [n for n in TENSOR_PARALLEL if not (run.gpus % n or shape.heads % n)]
    micro = [*(tokens for tokens in MICRO_TOKENS if tokens > run.sequence), run.sequence]
    for offloads, engine, tokens, share in product(OFFLOADS, engines, micro, UTILIZATIONS):
        yield fit(shape, run, Setting(tokens, *offloads, engine, share), gpu)


def choose(shape: Shape, run: Run, gpu: Gpu) -> Fit | None:
    """The first setting that fits, or None."""
    return next((each for each in fits(shape, run, gpu) if each.fits), None)


def remedies(shape: Shape, run: Run, gpu: Gpu) -> list[str]:
    """What would make a run fit that doesn't, each by itself."""
    least = min(fits(shape, run, gpu), key=lambda each: (each.training.total, not each.generates))
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
    gpus = [n for k in range(1, 11) if (n := run.gpus << k) <= MOST_GPUS]
    responses = [n for k in range(1, 64) if (n := run.response >> k) >= LEAST_RESPONSE]
    memories = sorted({each.memory for each in estimate.GPUS.values() if each.memory > gpu.memory})
    for tried in (
        [(f"--gpus {n}", replace(run, gpus=n), gpu) for n in gpus],
        [(f"--response {n}", replace(run, response=n), gpu) for n in responses],
        [(f"--gpu-memory {n / GB:.0f}GB", run, replace(gpu, memory=n)) for n in memories],
    ):
        fitting = (f"{said} fits" for said, *changed in tried if choose(shape, *changed))
        lines += islice(fitting, 1)
    return lines
