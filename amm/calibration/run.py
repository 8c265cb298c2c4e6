"""Calibrates: loads models and questions, and writes the table that a method takes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from amm.calibration.activations import mean_magnitudes
from amm.calibration.alignment import START, AlignmentSettings, align
from amm.calibration.models import encode, load
from amm.calibration.patterns import labelled
from amm.calibration.questions import read_answers, read_questions, refuse_overlap
from amm.checkpoints.keys import common_name
from amm.errors import InputError
from amm.settings import validated

Progress = Callable[[str, float], None]


def calibrate_activations(
    model: str | Path,
    questions: str | Path,
    *,
    output: str | Path,
    answers: Sequence[str | Path] = (),
    samples: int = 256,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Path:
    """Measure how active the inputs of a base's linear layers are, for `method: aim`.

    Args:
        model: the base: a Hugging Face folder, or an id on the Hub.
        questions: a Parquet or JSON Lines file in the training schema.
        output: the safetensors file to write; it must not exist.
        answers: what `python -m lipo_verl.evaluate` left for these questions: the first answer to
            each is read after it. For long to short, those of the short model.
        samples: at most so many questions, the first; the paper takes 256 of 512 tokens [C].
        device: where the model runs.
        progress: called with a name and the share that is done.

    Raises:
        InputError: anything that the caller can mend.
    """
    target = _new_file(output)
    every = read_questions(Path(questions))
    found = read_answers([Path(file) for file in answers], every)
    chosen = [each for each in every if not answers or each.row in found][:samples]
    loaded, processor = load(model, device)

    def inputs() -> Iterator[Mapping[str, Tensor]]:
        for number, question in enumerate(chosen):
            response = found[question.row][0].response if answers else None
            yield encode(processor, question, response, device)
            if progress is not None:
                progress("questions", (number + 1) / len(chosen))

    magnitudes = mean_magnitudes(loaded, inputs())
    about = {"model": str(model), "questions": str(questions), "samples": len(chosen)}
    _write(target, {common_name(name): value for name, value in magnitudes.items()}, about)
    return target


def calibrate_rpam(
    long: str | Path,
    short: str | Path,
    questions: str | Path,
    *,
    long_answers: Sequence[str | Path],
    short_answers: Sequence[str | Path],
    held_out: Sequence[str | Path],
    output: str | Path,
    per_class: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Find how far each layer of a long model goes towards a short one, for `method: rpam`.

    Stopped, the same call resumes after the last finished layer.

    Args:
        long: θ_L: a Hugging Face folder, or an id on the Hub; the base of the merge.
        short: θ_S.
        questions: training questions, a Parquet or JSON Lines file in the training schema.
        long_answers: the long model's scored answers to them, k files of one answer each or one
            of k, as `python -m lipo_verl.evaluate` writes them.
        short_answers: the short model's.
        held_out: the files that the merged model will be judged by; questions that are in one of
            them are refused.
        output: the safetensors file to write; it must not exist.
        per_class: questions of each label, at most; the paper takes 64 [C].
        device: where the models run.
        progress: called with a name and the share that is done.
        **settings: see `AlignmentSettings`.

    Raises:
        InputError: anything that the caller can mend.
    """
    chosen = validated(AlignmentSettings, settings, "calibrate rpam")
    target = _new_file(output)
    every = read_questions(Path(questions))
    scored_long, scored_short = (
        read_answers([Path(file) for file in files], every)
        for files in (long_answers, short_answers)
    )
    labels = labelled(scored_long, scored_short, per_class)
    counts = Counter(labels.values())
    if len(counts) < 2:
        raise InputError(
            f"{questions}: of the questions that both models answered, {counts['long']} are for"
            f" long answers and {counts['short']} for short ones, and both are needed; give more"
            " questions, or more answers to each."
        )
    asked = [question for question in every if question.row in labels]
    refuse_overlap(asked, [Path(file) for file in held_out])
    about = {
        "long": str(long),
        "short": str(short),
        "questions": [question.identity() for question in asked],
        "labels": [labels[question.row] for question in asked],
        **chosen.model_dump(),
    }
    unfinished = target.with_name(target.name + ".part")
    done = _done(unfinished, about)
    (model, processor), (other, _) = load(long, device), load(short, device)
    inputs = [encode(processor, question, None, device) for question in asked]
    found = dict(done)
    for number, layers, alphas in align(
        model, other, inputs, [labels[q.row] for q in asked], chosen, done
    ):
        found |= alphas
        _write(unfinished, found, about)
        if progress is not None:
            progress(f"layer {number} of {layers}", number / layers)
    everything = {name: found.get(name, torch.tensor(START)) for name in model.state_dict()}
    _write(target, {common_name(name): value for name, value in everything.items()}, about)
    unfinished.unlink()
    return target


def _new_file(output: str | Path) -> Path:
    target = Path(output)
    if target.exists():
        raise InputError(f"{target} is there already; name another file, or remove it.")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} isn't a folder; make it, or name another file.")
    return target


def _write(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a table under another name first, so that it appears whole."""
    half = file.with_name(file.name + ".tmp")
    content = {name: value.contiguous() for name, value in tensors.items()}
    save_file(content, half, metadata={"calibration": json.dumps(about)})
    os.replace(half, file)


def _done(unfinished: Path, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """The layers that an earlier call finished.

    Raises:
        InputError: they are those of another calibration.
    """
    if not unfinished.exists():
        return {}
    with safe_open(unfinished, "pt") as file:
        said = json.loads(file.metadata()["calibration"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    differing = [key for key in about if said.get(key) != about[key]]
    if differing:
        raise InputError(
            f"{unfinished} is an unfinished calibration with other {', '.join(differing)}; remove"
            " it to start anew, or name another output."
        )
    return tensors
