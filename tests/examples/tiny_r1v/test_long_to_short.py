"""Long-to-short by merging: the two models, the sweep, the table, the one command."""

import json
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import amm
from amm.methods import get_method
from examples.quickstart import base_model
from examples.quickstart.tasks import TASKS, make_example, worked_answer
from examples.tiny_r1v.long_to_short import __main__ as command
from examples.tiny_r1v.long_to_short import report, sources
from examples.tiny_r1v.long_to_short.merges import INTERPOLATION, SWEEP, Merge
from lipo_verl.evaluate.statistics import Scored


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folders of both models after two steps each, by name, with the base."""
    folders = {"base": base_model.FOLDER}
    for name, sentences in sources.SENTENCES.items():
        folders[name] = tmp_path_factory.mktemp("models") / name
        training = sources.recipe(sentences, steps=2, seed=0)
        losses = list(sources.fine_tune(base_model.FOLDER, folders[name], training))
        assert len(losses) == 2
    return folders


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_two_models_differ_from_the_base_and_from_each_other(pair):
    base, quick, long = (weights(pair[name]) for name in ("base", "quick", "long"))
    assert base.keys() == quick.keys() == long.keys()
    key = next(key for key in base if key.endswith("layers.0.self_attn.q_proj.weight"))
    assert not torch.equal(base[key], quick[key])
    assert not torch.equal(long[key], quick[key])


@pytest.mark.parametrize("name", list(sources.SENTENCES))
def test_all_answers_that_a_model_learns_have_its_length(name):
    sentences = sources.SENTENCES[name]
    training = sources.recipe(sentences, steps=1, seed=3)
    processor = base_model.Qwen2_5_VLProcessor.from_pretrained(base_model.FOLDER)
    batch = next(base_model.batches(processor, training, worked=True))
    lengths = (batch.labels != -100).sum(dim=1)
    rng = Random(0)
    answers = [
        worked_answer(make_example(task, rng), sentences, rng) for task in TASKS for _ in range(300)
    ]
    possible = [len(processor.tokenizer(text)["input_ids"]) + 1 for text in answers]
    assert min(possible) <= lengths.min() and lengths.max() <= max(possible)


@pytest.mark.parametrize("scale", [0.25, 0.75])
def test_interpolation_is_the_straight_line_from_quick_to_long(pair, tmp_path, scale):
    arguments = Merge(INTERPOLATION, scale).arguments()
    arguments["base"] = pair[arguments["base"]]
    arguments["experts"] = [pair[name] for name in arguments["experts"]]
    amm.merge(**arguments, output=tmp_path / "merged")
    merged, quick, long = (
        weights(tmp_path / "merged"),
        weights(pair["quick"]),
        weights(pair["long"]),
    )
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, torch.lerp(quick[key], long[key], scale))


def test_every_merge_of_the_sweep_is_one_that_amm_takes():
    for merge in SWEEP:
        arguments = merge.arguments()
        method = get_method(arguments["method"])
        assert method.settings(**arguments["parameters"]).scale == merge.scale
    assert len({merge.name for merge in SWEEP}) == len(SWEEP)


def answers(accuracy, tokens):
    one = Scored(np.array(accuracy, float), np.array(tokens), np.zeros(len(tokens), bool))
    return dict.fromkeys(TASKS, one)


def test_the_table_has_accuracy_tokens_and_the_share_of_longs_tokens():
    table = report.markdown(
        {"long": answers([1, 1, 1, 0], [40] * 4), "amm-1": answers([1, 1, 0, 0], [10] * 4)}
    )
    long, merged = (line.split("|")[1:-1] for line in table.splitlines()[2:])
    assert [cell.split()[0] for cell in long[:5]] == ["long", "0.750", "40.0", "53.3", "100%"]
    assert [cell.split()[0] for cell in merged[:5]] == ["amm-1", "0.500", "10.0", "20.0", "25%"]
    assert [cell.strip() for cell in merged[5:]] == ["0.500 · 10.0"] * 3


def test_the_plot_is_drawn(tmp_path):
    names = ("base", "quick", "long", "amm-0.5", "amm-1")
    report.plot({name: answers([1, 0], [5, 7]) for name in names}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_another_runs_folder_is_refused(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"steps": 1, "samples": 1, "seed": 0}))
    with pytest.raises(command.SettingsDiffer, match="other settings .*Remove that folder"):
        command.long_to_short(tmp_path, command.Settings())


def test_a_run_makes_only_what_is_missing(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(command, "write_splits", lambda folder, **_: made.append("data"))
    monkeypatch.setattr(command, "_fine_tune", lambda name, *_: made.append(name))
    monkeypatch.setattr(command.amm, "merge", lambda **given: made.append(given["output"].name))
    monkeypatch.setattr(command, "evaluate", lambda *_: made.append("evaluation"))
    monkeypatch.setattr(command.report, "write", lambda *_: "table")
    there = [tmp_path / "models" / name for name in ("quick", SWEEP[0].name)]
    for folder in there:
        folder.mkdir(parents=True)
    assert command.long_to_short(tmp_path, command.Settings()) == "table"
    assert made == ["data", "long", *(merge.name for merge in SWEEP[1:]), "evaluation"]
