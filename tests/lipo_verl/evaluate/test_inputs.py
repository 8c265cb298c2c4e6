"""What the command line names."""

import os

import pytest

from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.inputs import Model, files, models


def test_a_folder_is_called_what_it_is_called_on_disk(model_folder):
    folder = model_folder("experts/math")
    assert models([str(folder)]) == [Model("math", str(folder))]
    assert models([f"{folder}/"])[0].name == "math"


def test_a_name_can_be_given(model_folder, write):
    folder, file = model_folder("math"), write([{"a": 1}])
    assert models([f"best={folder}"]) == [Model("best", str(folder))]
    assert files([f"easy={file}"])[0].name == "easy"


def test_a_path_with_an_equals_sign_that_exists_is_a_path(model_folder):
    folder = model_folder("lr=1")
    assert models([str(folder)])[0].name == "lr=1"


def test_a_hub_id_is_taken_where_there_is_no_such_folder():
    assert models(["Qwen/Qwen2.5-VL-3B-Instruct"]) == [
        Model("Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct")
    ]


def test_a_file_is_called_by_its_folder_too(write):
    assert files([str(write([{"a": 1}], "math/val"))])[0].name == "math-val"


def test_one_name_for_two_is_refused(model_folder):
    first, second = model_folder("a/best"), model_folder("b/best")
    with pytest.raises(EvaluationError, match=f"both called best. Name them: NAME={second}"):
        models([str(first), str(second)])


def test_a_name_that_makes_no_file_name_is_refused(model_folder):
    with pytest.raises(EvaluationError, match="'a/b' is no name"):
        models([f"a/b={model_folder('math')}"])


@pytest.mark.parametrize("kind", [models, files])
def test_a_misspelt_path_gets_a_hint(kind, model_folder, write):
    model_folder("experts/math")
    path = write([{"a": 1}], "experts/maths").parent / "mahts.parquet"
    with pytest.raises(EvaluationError, match="There is no .*Did you mean .*experts/math"):
        kind([str(path)])


def test_a_local_path_whose_folder_exists_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(EvaluationError, match="There is no folder models/mine"):
        models(["models/mine"])


def test_a_folder_without_weights_is_refused(model_folder):
    folder = model_folder("huggingface")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EvaluationError, match="no weights"):
        models([str(folder)])
    (folder / "config.json").unlink()
    with pytest.raises(EvaluationError, match="no config.json"):
        models([str(folder)])


@pytest.mark.parametrize("place", ["", "actor/"])
def test_shards_of_a_trainer_are_refused_with_the_way_out(tmp_path, place):
    shard = tmp_path / "global_step_5" / place / "model_world_size_1_rank_0.pt"
    shard.parent.mkdir(parents=True)
    shard.touch()
    with pytest.raises(EvaluationError, match="FSDP shards.*amm merge"):
        models([str(tmp_path / "global_step_5")])


def test_other_weights_under_the_same_path_are_another_model(model_folder):
    folder = model_folder("math")
    model = Model("math", str(folder))
    before = model.fingerprint()
    assert model.fingerprint() == before
    (folder / "README.md").write_text("a card says nothing about the weights")
    assert model.fingerprint() == before
    os.utime(folder / "model.safetensors", (1, 1))
    assert model.fingerprint() != before
