"""Reader of Hugging Face folders: what it reads, and what it says where there is nothing."""

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
    assert "2 shards of safetensors" in open_checkpoint(sharded).describe()


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


def test_bin_file(tmp_path, weights):
    torch.save(weights, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    check(checkpoint, weights)
    assert "1 .bin file, 3 tensors, bfloat16, float32, int64" in checkpoint.describe()
    assert checkpoint.files() == [tmp_path / "pytorch_model.bin"]


def test_parameters_and_strided_tensors_of_a_bin_file(tmp_path, weights):
    parameter = torch.nn.Parameter(weights["a"])
    both = {"a": parameter, "t": weights["a"].T}
    torch.save(both, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert torch.equal(checkpoint.read("t", slice(1, 3)), weights["a"].T[1:3])
    assert type(checkpoint.read("a")) is torch.Tensor and not checkpoint.read("a").requires_grad


def test_bin_shards_by_index(tmp_path, weights):
    torch.save({"a": weights["a"]}, tmp_path / "one.bin")
    torch.save({"b": weights["b"], "c": weights["c"]}, tmp_path / "two.bin")
    index = {"weight_map": {"a": "one.bin", "b": "two.bin", "c": "two.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    check(open_checkpoint(tmp_path), weights)


def test_safetensors_are_preferred_to_bin_files(tmp_path, weights):
    torch.save({"x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    save_file(weights, tmp_path / "model.safetensors")
    check(open_checkpoint(tmp_path), weights)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_rows_are_read_without_reading_the_rest(tmp_path, name):
    weight = torch.arange(2.0**20).view(1024, 1024)
    save = save_file if name.endswith("tensors") else torch.save
    save({"w": weight}, tmp_path / name)
    checkpoint = open_checkpoint(tmp_path)
    rows = checkpoint.read("w", slice(1000, 1003))
    assert torch.equal(rows, weight[1000:1003])
    whole = checkpoint.read("w")
    assert rows.data_ptr() - whole.data_ptr() == 1000 * 4096


def test_link_into_another_folder_is_read_as_the_hubs_cache_has_it(tmp_path, weights):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file(weights, tmp_path / "blobs" / "0a1b")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/0a1b")
    check(open_checkpoint(tmp_path / "snapshot"), weights)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "{"])
def test_malformed_index_is_named(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match="isn't an index of weight files"):
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
        ("global_step_20/actor/x", "Give one of its steps: global_step_20."),
        ("huggingface/model.safetensors", "There are some in huggingface; give that folder."),
        ("actor/lora_adapter/adapter_config.json", "There are some in actor/lora_adapter"),
        ("actor/dist_ckpt/x", "verl's Megatron backend; convert it"),
        ("README.md", "It has README.md"),
    ],
)
def test_folder_without_weights_says_what_is_there(tmp_path, name, advice):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=advice):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latest_checkpointed_iteration.txt", "120"),
        (
            "checkpoint_tracker.json",
            json.dumps({"best_global_step": 20, "last_global_step": 120, "x": 1}, indent=4),
        ),
    ],
)
def test_folder_of_steps_names_them_in_order_and_the_last(tmp_path, name, content):
    for step in (20, 120, 100):
        (tmp_path / f"global_step_{step}").mkdir()
    (tmp_path / name).write_text(content)
    listed = "global_step_20, global_step_100, global_step_120 \\(the last one\\)\\."
    with pytest.raises(InputError, match=listed):
        open_checkpoint(tmp_path)


def test_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="doesn't exist"):
        open_checkpoint(tmp_path / "no")
    with pytest.raises(InputError, match="is a file"):
        open_checkpoint(tmp_path / "file")
