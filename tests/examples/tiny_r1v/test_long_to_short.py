"""Long-to-short by merging: the two models, the sweep, the table, the one command."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import amm
from amm.calibration.questions import read_answers, read_questions
from amm.methods import get_method
from examples.quickstart import base_model
from examples.quickstart.data import write_splits
from examples.quickstart.tasks import TASKS, make_example, respond
from examples.run_folder import SettingsDiffer
from examples.tiny_r1v.long_to_short import __main__ as command
from examples.tiny_r1v.long_to_short import calibration, report, sources
from examples.tiny_r1v.long_to_short.merges import INTERPOLATION, SWEEP, scaled
from lipo_verl.evaluate.statistics import Scored


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folders of both models after two steps each, by name, with the base."""
    folders = {"base": base_model.FOLDER}
    for name, style in sources.STYLE.items():
        folders[name] = tmp_path_factory.mktemp("models") / name
        training = sources.recipe(style, steps=2, seed=0)
        losses = list(sources.fine_tune(base_model.FOLDER, folders[name], training))
        assert len(losses) == 2
    return folders


def carry_out(merge, folders, output):
    experts = [folders[name] for name in merge.experts]
    amm.merge(
        folders[merge.base],
        experts,
        method=merge.method,
        parameters=merge.parameters,
        output=output,
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_two_models_differ_from_the_base_and_from_each_other(pair):
    base, quick, long = (weights(pair[name]) for name in ("base", "quick", "long"))
    assert base.keys() == quick.keys() == long.keys()
    key = next(key for key in base if key.endswith("layers.0.self_attn.q_proj.weight"))
    assert not torch.equal(base[key], quick[key])
    assert not torch.equal(long[key], quick[key])


@pytest.mark.parametrize("name", list(sources.STYLE))
def test_all_answers_that_a_model_learns_have_its_length(name):
    style = sources.STYLE[name]
    training = sources.recipe(style, steps=1, seed=3)
    processor = base_model.Qwen2_5_VLProcessor.from_pretrained(base_model.FOLDER)
    batch, _ = next(base_model.batches(processor, training, styled=True))
    lengths = (batch.labels != -100).sum(dim=1)
    rng = Random(0)
    answers = [respond(make_example(task, rng), style, rng) for task in TASKS for _ in range(300)]
    possible = [len(processor.tokenizer(text)["input_ids"]) + 1 for text in answers]
    assert min(possible) <= lengths.min() and lengths.max() <= max(possible)


@pytest.mark.parametrize("scale", [0.25, 0.75])
def test_interpolation_is_the_straight_line_from_quick_to_long(pair, tmp_path, scale):
    merge = scaled(INTERPOLATION, scale)
    carry_out(merge, pair, tmp_path / "merged")
    merged, quick, long = (
        weights(tmp_path / "merged"),
        weights(pair["quick"]),
        weights(pair["long"]),
    )
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, torch.lerp(quick[key], long[key], scale))


def test_every_merge_of_the_sweep_is_one_that_amm_takes():
    known = {"base", "quick", "long"}
    for merge in SWEEP:
        method = get_method(merge.method)
        method.settings(**merge.parameters, **({merge.table: "file"} if merge.table else {}))
        assert merge.table == method.table and {merge.base, *merge.experts} <= known
        known.add(merge.name)
    assert len(known) == 3 + len(SWEEP)


def test_repair_goes_the_largest_quarter_of_the_way_in_part(pair, tmp_path):
    """θ = θ_0 + 0.7 · (largest 25 % of |Δ|, per tensor): DLER's repair."""
    (merge,) = (merge for merge in SWEEP if merge.name == "repair")
    carry_out(merge, pair, tmp_path / "merged")
    base, quick, merged = map(weights, (pair["base"], pair["quick"], tmp_path / "merged"))
    for key, tensor in merged.items():
        step = quick[key] - base[key]
        kept = step.abs() >= step.abs().flatten().sort(descending=True).values[len_of(step) - 1]
        torch.testing.assert_close(tensor, base[key] + 0.7 * step * kept)


def len_of(step):
    return max(1, int(0.25 * step.numel()))


def test_answers_are_numbered_as_the_questions_of_all_tasks(tmp_path, monkeypatch):
    data, folder = tmp_path / "data", tmp_path / "calibration"
    write_splits(data, train=2, val=1)
    asked = []

    def answer(models, questions, output, *_):
        for name in ("quick", "long"):
            for task in TASKS:
                rows = pq.read_table(questions / task / "val.parquet").to_pylist()
                asked.append(len(rows))
                file = output / "evaluation" / name / f"{task}.jsonl"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(
                    "".join(
                        json.dumps({"row": n, "response": task, "tokens": n, "accuracy": 1}) + "\n"
                        for n in range(len(rows))
                    )
                )

    monkeypatch.setattr(calibration, "evaluate", answer)
    given = {}
    monkeypatch.setattr(calibration.amm, "calibrate_activations", lambda *a, **k: given.update(k))
    monkeypatch.setattr(calibration.amm, "calibrate_rpam", lambda *a, **k: given.update(k))
    calibration.calibrate(folder, data, dict.fromkeys(("quick", "long"), Path("m")), 96, 0)
    assert asked == [2 * calibration.ANSWERS] * 6
    questions = read_questions(folder / "questions.parquet")
    found = read_answers(given["short_answers"], questions)
    assert {row: len(answers) for row, answers in found.items()} == dict.fromkeys(range(6), 4)
    assert [found[row][0].response for row in range(6)] == [t for t in TASKS for _ in range(2)]
    assert given["held_out"] == [data / task / "val.parquet" for task in TASKS]


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
    names = ("base", "quick", "long", "amm-0.5", "amm-1", "rpam")
    report.plot({name: answers([1, 0], [5, 7]) for name in names}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_another_runs_folder_is_refused(tmp_path):
    (tmp_path / "settings.json").write_text(
        json.dumps({"steps": 1, "samples": 1, "questions": 1, "seed": 0})
    )
    with pytest.raises(SettingsDiffer, match="other settings .*Remove that folder"):
        command.long_to_short(tmp_path, command.Settings())


def test_a_run_makes_only_what_is_missing(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(command, "write_splits", lambda folder, **_: made.append("data"))
    monkeypatch.setattr(command, "_fine_tune", lambda name, *_: made.append(name))
    tables = {"activations": Path("a"), "coefficients": Path("c")}
    monkeypatch.setattr(command, "calibrate", lambda *_: made.append("calibration") or tables)
    monkeypatch.setattr(command.amm, "merge", lambda *_, output, **__: made.append(output.name))
    monkeypatch.setattr(command, "evaluate", lambda *_: made.append("evaluation"))
    monkeypatch.setattr(command.report, "write", lambda *_: "table")
    there = [tmp_path / "models" / name for name in ("quick", SWEEP[0].name)]
    for folder in there:
        folder.mkdir(parents=True)
    assert command.long_to_short(tmp_path, command.Settings()) == "table"
    assert made == [
        "data",
        "long",
        "calibration",
        *(merge.name for merge in SWEEP[1:]),
        "evaluation",
    ]
