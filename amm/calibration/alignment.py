"""RPAM's coefficients: each decoder layer is brought to the right model's outputs, in order.

For a question labelled long the layer's output shall be the long model's (z_pos) and not the short
one's (z_neg), and the other way round (arXiv 2601.03506):

    θ = θ_L + α ⊙ (θ_S − θ_L),  α from ½                                                    [C]
    min over α of   Σ (z − z_pos)² + w · CL                                                  [C]
    CL = −log( e^{cos(z, z_pos)/t} / (e^{cos(z, z_pos)/t} + Σ_batch e^{cos(z, z_neg)/t}) )   [C]

z is the layer's output over the prompt. Prompts differ in length, so that cosines are taken of its
mean over the prompt [I]. After each layer all activations are computed anew [C]. What isn't in a
decoder layer stays at ½ [I].
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from amm.calibration.patterns import Pattern
from amm.errors import InputError
from amm.settings import Settings

START = 0.5
"""α before a layer is aligned, and of what isn't in one."""


class AlignmentSettings(Settings):
    """Settings of the alignment.

    Attributes:
        granularity: an α for each `tensor`, each `layer` (the paper's words), or each `element`
            (its code) [C].
        contrast: w [C].
        temperature: t [C].
        learning_rate: of Adam [C].
        epochs: passes over the questions, for each layer [C].
        batch: questions in a step [I].
        seed: of the batches.
    """

    granularity: Literal["tensor", "layer", "element"] = "tensor"
    contrast: float = Field(1000.0, ge=0)
    temperature: float = Field(0.1, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    epochs: int = Field(100, ge=0)
    batch: int = Field(8, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """A question before a layer.

    Attributes:
        arguments: what the merged model's layer gets: positional, then by keyword.
        positive: output of the labelled model's layer, … × hidden.
        negative: of the other's.
    """

    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    positive: Tensor
    negative: Tensor


def alignment_loss(
    outputs: Sequence[Tensor],
    positives: Sequence[Tensor],
    negatives: Sequence[Tensor],
    contrast: float,
    temperature: float,
) -> Tensor:
    """Σ (z − z_pos)² + w · CL over a batch.

    Args:
        outputs: z of each of B questions, … × hidden.
        positives: z_pos, of the same shapes.
        negatives: z_neg.
        contrast: w.
        temperature: t.
    """
    squares = sum((z - p).square().sum() for z, p in zip(outputs, positives, strict=True))
    z, positive, negative = (
        nn.functional.normalize(torch.stack([x.flatten(0, -2).mean(dim=0) for x in each]), dim=-1)
        for each in (outputs, positives, negatives)
    )
    near = (z * positive).sum(dim=-1) / temperature
    far = z @ negative.T / temperature
    contrasts = torch.cat([near[:, None], far], dim=1).logsumexp(dim=1) - near
    return squares + contrast * contrasts.sum()


def align_layer(
    layer: nn.Module,
    start: Mapping[str, Tensor],
    step: Mapping[str, Tensor],
    samples: Sequence[Sample],
    settings: AlignmentSettings,
) -> dict[str, Tensor]:
    """The α of one layer.

    Args:
        layer: a module of its kind.
        start: θ_L, by name of the parameter.
        step: θ_S − θ_L.
        samples: the questions.
        settings: see `AlignmentSettings`.

    Returns:
        Name → α: a scalar, or, with `element`, of the parameter's shape.
    """
    shared = torch.full((), START, device=next(iter(start.values())).device)
    alphas = {
        name: shared
        if settings.granularity == "layer"
        else torch.full_like(value if settings.granularity == "element" else shared, START)
        for name, value in start.items()
    }
    trained = list({id(alpha): alpha.requires_grad_() for alpha in alphas.values()}.values())
    adam = torch.optim.Adam(trained, lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(samples), generator=generator)
        for chosen in order.split(settings.batch):
            batch = [samples[i] for i in chosen]
            weights = {name: start[name] + alphas[name] * step[name] for name in start}
            outputs = [_output(functional_call(layer, weights, *s.arguments)) for s in batch]
            loss = alignment_loss(
                outputs,
                [s.positive for s in batch],
                [s.negative for s in batch],
                settings.contrast,
                settings.temperature,
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
    return {name: alpha.detach().clone() for name, alpha in alphas.items()}


def align(
    long: nn.Module,
    short: nn.Module,
    inputs: Sequence[Mapping[str, Tensor]],
    labels: Sequence[Pattern],
    settings: AlignmentSettings,
    done: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
    """The α of all decoder layers, in order.

    Args:
        long: the long model, without gradients.
        short: the short one.
        inputs: what the models get for each question.
        labels: of each question.
        settings: see `AlignmentSettings`.
        done: α of layers that are done, by name in the model; they aren't aligned again.

    Yields:
        After each layer: its number from 1, how many there are, and its α by name in the model.

    Raises:
        InputError: transformers doesn't say which layers are the decoder's.
    """
    done = done or {}
    prefix, _ = decoder_layers(long)
    merged = copy.deepcopy(long)
    _set(merged, long, short, {name: torch.tensor(START) for name, _ in long.named_parameters()})
    _set(merged, long, short, done)
    models = {"long": long, "short": short, "merged": merged}
    stacks = [decoder_layers(model)[1] for model in models.values()]
    for number, layers in enumerate(zip(*stacks, strict=True)):
        beginning = f"{prefix}.{number}."
        alphas = {name: alpha for name, alpha in done.items() if name.startswith(beginning)}
        if not alphas:
            at = dict(zip(models, layers, strict=True))
            found = _aligned(models, at, inputs, labels, settings)
            alphas = {beginning + name: alpha for name, alpha in found.items()}
            _set(merged, long, short, alphas)
        yield number + 1, len(stacks[0]), {name: alpha.cpu() for name, alpha in alphas.items()}


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and modules of a language model's decoder layers.

    Raises:
        InputError: transformers doesn't say which they are.
    """
    get_decoder = getattr(model, "get_decoder", lambda: None)
    layers = getattr(get_decoder(), "layers", None)
    names = [name for name, module in model.named_modules() if module is layers]
    if not names or not isinstance(layers, nn.ModuleList):
        raise InputError(
            f"{type(model).__name__}: no decoder layers found, by get_decoder().layers; rpam can't"
            " be calibrated on this kind of model."
        )
    return names[0], layers


def _aligned(
    models: Mapping[str, nn.Module],
    layers: Mapping[str, nn.Module],
    inputs: Sequence[Mapping[str, Tensor]],
    labels: Sequence[Pattern],
    settings: AlignmentSettings,
) -> dict[str, Tensor]:
    """The α of one layer, which each of the three models has."""
    samples = []
    for each, label in zip(inputs, labels, strict=True):
        passes = {name: _passes(model, layers[name], each) for name, model in models.items()}
        entering, _ = passes.pop("merged")
        _, positive = passes.pop(label)
        ((_, negative),) = passes.values()
        samples.append(Sample(entering, positive, negative))
    start, end = (dict(layers[name].named_parameters()) for name in ("long", "short"))
    step = {name: end[name] - start[name] for name in start}
    return align_layer(layers["merged"], start, step, samples, settings)


class _Passed(Exception):
    """The layer that was asked for is through; what comes after it isn't computed."""


@torch.no_grad()
def _passes(
    model: nn.Module, layer: nn.Module, inputs: Mapping[str, Tensor]
) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], Tensor]:
    """What a layer of a model gets, and what it gives."""
    found = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        found.append(((args, kwargs), _output(out)))
        raise _Passed

    hook = layer.register_forward_hook(keep, with_kwargs=True)
    try:
        model(**inputs, use_cache=False)
    except _Passed:
        pass
    finally:
        hook.remove()
    return found[0]


def _output(given: Any) -> Tensor:
    return given[0] if isinstance(given, tuple) else given


@torch.no_grad()
def _set(
    merged: nn.Module, long: nn.Module, short: nn.Module, alphas: Mapping[str, Tensor]
) -> None:
    """Put some parameters of the merged model at their place between the two."""
    starts, ends = dict(long.named_parameters()), dict(short.named_parameters())
    for name, parameter in merged.named_parameters():
        if name in alphas:
            alpha = alphas[name].to(parameter)
            parameter.copy_(starts[name] + alpha * (ends[name] - starts[name]))
