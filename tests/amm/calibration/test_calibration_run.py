"""From questions to merged models: files, refusals, resuming, and the command line."""

import json
import sys

import pytest
import torch
from calibration_cases import write_answers, write_questions
from safetensors.torch import load_file

import amm
from amm.calibration import run
from amm.cli import main
from amm.errors import InputError
from examples.quickstart.base_model import FOLDER


@pytest.mark.slow
def test_activations_of_the_base_hold_a_merge_back(other_folder, tmp_path):
    questions = write_questions(tmp_path / "train.parquet", [3, 90, 200])
    answers = write_answers(tmp_path / "short.jsonl", [(0, 5, 1), (2, 5, 1)])
    seen = []
    file = amm.calibrate_activations(
        FOLDER,
        questions,
        output=tmp_path / "activations.safetensors",
        answers=[answers],
        progress=lambda name, done: seen.append(done),
    )
    assert seen == [0.5, 1.0]
    result = amm.merge(
        FOLDER,
        [other_folder],
        output=tmp_path / "merged",
        method="aim",
        parameters={"activations": file},
    )
    shortened = {tensor.name for tensor in result.tensors if tensor.rule == "aim"}
    assert any("visual" in name for name in shortened)
    assert any("layers.2.mlp.down_proj" in name for name in shortened)
    base, other, merged = (
        load_file(folder / "model.safetensors")
        for folder in (FOLDER, other_folder, tmp_path / "merged")
    )
    for name in shortened:
        step, whole = merged[name] - base[name], other[name] - base[name]
        assert 0.4 * whole.norm() < step.norm() < whole.norm()


@pytest.fixture
def arguments(other_folder, tmp_path):
    rows = range(4)
    return {
        "long": FOLDER,
        "short": other_folder,
        "questions": write_questions(tmp_path / "train.parquet", [1, 2, 3, 4]),
        "long_answers": [write_answers(tmp_path / "l.jsonl", [(r, 40, 1) for r in rows] * 2)],
        "short_answers": [
            write_answers(tmp_path / "s.jsonl", [(r, 8, a) for r in rows for a in (1, r % 2)])
        ],
        "held_out": [write_questions(tmp_path / "test.parquet", [50, 60])],
        "output": tmp_path / "coefficients.safetensors",
        "epochs": 1,
    }


def test_coefficients_make_a_merge_that_loads(arguments, other_folder, vision_model, tmp_path):
    file = amm.calibrate_rpam(**arguments)
    found = load_file(file)
    assert {float(value) == 0.5 for name, value in found.items() if "visual" in name} == {True}
    assert any(float(value) != 0.5 for name, value in found.items() if ".layers." in name)
    amm.merge(
        FOLDER,
        [other_folder],
        output=tmp_path / "merged",
        method="rpam",
        parameters={"coefficients": file},
    )
    base, merged = (load_file(f / "model.safetensors") for f in (FOLDER, tmp_path / "merged"))
    assert any(not torch.equal(base[name], merged[name]) for name in base)
    kind = type(vision_model[0])
    _, loaded = kind.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(loaded.values())


def test_interrupted_it_resumes_after_the_last_layer_and_finds_the_same(arguments, tmp_path):
    whole = load_file(amm.calibrate_rpam(**arguments | {"output": tmp_path / "whole.safetensors"}))

    def stop(name, done):
        if name == "layer 2 of 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        amm.calibrate_rpam(**arguments, progress=stop)
    assert not arguments["output"].exists()
    with pytest.raises(InputError, match="unfinished calibration with other epochs"):
        amm.calibrate_rpam(**arguments | {"epochs": 2})
    resumed = load_file(amm.calibrate_rpam(**arguments))
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    assert not list(tmp_path.glob("*.part"))


def test_questions_of_the_evaluation_are_refused(arguments, tmp_path):
    held_out = [write_questions(tmp_path / "bad.parquet", [50, 3])]
    with pytest.raises(InputError, match="1 of the calibration's questions are in .*bad.parquet"):
        amm.calibrate_rpam(**arguments | {"held_out": held_out})


def test_one_label_alone_is_refused(arguments):
    with pytest.raises(InputError, match="0 are for long answers and 4 for short ones"):
        amm.calibrate_rpam(**arguments | {"short_answers": arguments["long_answers"]})


def test_a_file_that_is_there_is_kept(arguments):
    arguments["output"].write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        amm.calibrate_rpam(**arguments)


def test_a_folder_without_weights_says_how_to_make_some(arguments, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no weights as transformers saves them.*method: mean"):
        amm.calibrate_activations(tmp_path / "empty", arguments["questions"], output=tmp_path / "x")


def test_the_command_line_hands_everything_on(monkeypatch, capsys, tmp_path):
    given = {}
    monkeypatch.setattr(run, "calibrate_rpam", lambda *args, **kwargs: given.update(kwargs))
    words = "L S --questions q.parquet --long-answers a --long-answers b --short-answers c"
    words += " --held-out h --output o.safetensors --granularity layer --epochs 5 --per-class 2"
    monkeypatch.setattr(sys, "argv", ["amm", "calibrate", "rpam", *words.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0 and "Coefficients: o.safetensors" in capsys.readouterr().out
    del given["progress"]
    assert json.loads(json.dumps(given, default=str)) == {
        "long_answers": ["a", "b"],
        "short_answers": ["c"],
        "held_out": ["h"],
        "output": "o.safetensors",
        "per_class": 2,
        "device": "cpu",
        "granularity": "layer",
        "epochs": 5,
    }
