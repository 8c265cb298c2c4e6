"""Reader of Hugging Face folders: what it reads, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import save_file

from amm.checkpoints import open_checkpoint
from amm.errors import InputError


@pytest.fixture
def weights():
    return {"a": torch.arange(12.0).view(4, 3), "b": torch.ones(2).bfloat16(), "c": torch.tensor(7)}


@pytest.fixture
def sharded(tmp_path, weights):
    save_file({"a": weights["a"]}, tmp_path / "one.safetensors")
    save_file({"b": weights["b"], "c": weights["c"]}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def check(checkpoint, weights):
    assert checkpoint.keys() == sorted(weights)
    for key, tensor in weights.items():
        assert checkpoint.shape(key) == tuple(tensor.shape)
        assert checkpoint.dtype(key) == tensor.dtype
        assert torch.equal(checkpoint.read(key), tensor)
    assert torch.equal(checkpoint.read("a", slice(1, 3)), weights["a"][1:3])


def test_single_file(tmp_path, weights):
    save_file(weights, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    check(checkpoint, weights)
    assert "1 safetensors file, 3 tensors, bfloat16, float32, int64" in checkpoint.describe()


def test_shards_by_index(sharded, weights):
    check(open_checkpoint(sharded), weights)
    assert "2 shards" in open_checkpoint(sharded).describe()


def test_missing_shard_is_named(sharded):
    (sharded / "two.safetensors").unlink()
    with pytest.raises(InputError, match="lacks two.safetensors"):
        open_checkpoint(sharded)


def test_tensor_that_is_not_where_the_index_says_is_named(sharded):
    save_file({"x": torch.ones(1)}, sharded / "one.safetensors")
    with pytest.raises(InputError, match="one.safetensors doesn't hold a"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    "name",
    ["../one.safetensors", "/etc/x.safetensors", "sub/one.safetensors", "..\\x.safetensors", 3],
)
def test_index_can_not_point_out_of_the_folder(sharded, name):
    index = {"weight_map": {"a": name}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="only .safetensors files beside the index"):
        open_checkpoint(sharded)


def test_index_can_not_name_a_pickle(sharded):
    index = {"weight_map": {"a": "pytorch_model.bin"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="only .safetensors files"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "{"])
def test_malformed_index_is_named(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match="isn't an index of safetensors files"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_file_is_named(tmp_path, weights, keep):
    save_file(weights, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(InputError, match="model.safetensors isn't a whole safetensors file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("adapter_config.json", "It is a LoRA adapter; merge it into its base"),
        ("global_step_20", "Give one of its steps: global_step_20"),
        ("pytorch_model.bin", "Its .bin files are pickles"),
        ("README.md", "It has README.md"),
    ],
)
def test_folder_without_weights_says_what_is_there(tmp_path, name, advice):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=advice):
        open_checkpoint(tmp_path)


def test_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="doesn't exist"):
        open_checkpoint(tmp_path / "no")
    with pytest.raises(InputError, match="is a file"):
        open_checkpoint(tmp_path / "file")
