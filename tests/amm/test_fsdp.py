"""Reader of FSDP shards, on shards that torch's FSDP2 and DTensor saved in real process groups."""

import os
import pickle
import subprocess
import sys

import pytest
import torch
from pico_models import run_ranks

from amm.checkpoints import open_checkpoint
from amm.errors import InputError

IMPORTS = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import Qwen2Config, Qwen2ForCausalLM
"""

SAVE_FSDP2 = """
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=33, hidden_size=12, intermediate_size=21, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
    ))
    if rank == 0:
        torch.save(model.state_dict(), folder / "whole.pt")
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    (folder / "actor" / "huggingface").mkdir(parents=True, exist_ok=True)
    name = f"model_world_size_{world}_rank_{rank}.pt"
    torch.save(model.state_dict(), folder / "actor" / name)
"""
"""As verl's FSDPCheckpointManager saves an FSDP2 model: its sharded state dict, one file a rank."""

LAYOUT_IMPORTS = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
"""

SAVE_LAYOUTS = """
    flat = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
    grid = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("ddp", "fsdp"))
    whole = torch.arange(35.0).view(7, 5)
    torch.save({
        "rows": distribute_tensor(whole, flat, [Shard(0)]),
        "columns": distribute_tensor(whole, flat, [Shard(1)]),
        "copies": distribute_tensor(whole, flat, [Replicate()]),
        "hybrid": distribute_tensor(whole, grid, [Replicate(), Shard(0)]),
        "swapped": distribute_tensor(whole, grid, [Shard(1), Replicate()]),
        "few": distribute_tensor(whole[:1], flat, [Shard(0)]),
        "half": distribute_tensor(whole.bfloat16(), flat, [Shard(0)]),
        "scalar": torch.tensor(3.0),
        "plain": whole,
    }, folder / f"model_world_size_{world}_rank_{rank}.pt")
    torch.save({
        "twice": distribute_tensor(whole, grid, [Shard(0), Shard(1)]),
    }, folder / "twice" / f"model_world_size_{world}_rank_{rank}.pt")
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folders = {world: tmp_path_factory.mktemp(f"run{world}") / "global_step_3" for world in (1, 2)}
    run_ranks(IMPORTS, SAVE_FSDP2, folders)
    return folders


@pytest.fixture(params=[1, 2])
def step(request, steps):
    return steps[request.param]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    (folder / "twice").mkdir()
    run_ranks(LAYOUT_IMPORTS, SAVE_LAYOUTS, {4: folder})
    return folder


def test_shards_make_up_the_model_bit_for_bit(step):
    whole = torch.load(step / "whole.pt", weights_only=True)
    for path in (step, step / "actor"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.keys() == sorted(whole)
        for key, tensor in whole.items():
            assert checkpoint.shape(key) == tuple(tensor.shape)
            assert checkpoint.dtype(key) == torch.float32
            assert torch.equal(checkpoint.read(key), tensor)
    assert checkpoint.files_folder == step / "actor" / "huggingface"
    assert "FSDP shard" in checkpoint.describe() and "float32" in checkpoint.describe()


def test_reading_needs_no_process_group_and_no_class_of_torch_distributed(step):
    before = set(torch.serialization.get_safe_globals())
    checkpoint = open_checkpoint(step)
    assert type(checkpoint.read(checkpoint.keys()[0])) is torch.Tensor
    assert not torch.distributed.is_initialized()
    assert set(torch.serialization.get_safe_globals()) == before


def test_every_layout(layouts):
    checkpoint = open_checkpoint(layouts)
    whole = torch.arange(35.0).view(7, 5)
    for key in ("rows", "columns", "copies", "hybrid", "swapped", "plain"):
        assert torch.equal(checkpoint.read(key), whole), key
        assert torch.equal(checkpoint.read(key, slice(1, 6)), whole[1:6]), key
    assert torch.equal(checkpoint.read("few"), whole[:1])
    assert torch.equal(checkpoint.read("half"), whole.bfloat16())
    assert checkpoint.read("scalar") == 3.0
    assert "4 FSDP shards, 9 tensors (6 sharded DTensors)" in checkpoint.describe()


def test_two_sharded_mesh_dimensions_are_refused(layouts):
    with pytest.raises(InputError, match="twice is sharded over 2 mesh dimensions"):
        open_checkpoint(layouts / "twice")


def test_missing_ranks_are_named(layouts, tmp_path):
    for rank in (0, 2):
        name = f"model_world_size_4_rank_{rank}.pt"
        os.link(layouts / name, tmp_path / name)
    with pytest.raises(InputError, match="lacks model_world_size_4_rank_1.pt, .*_rank_3.pt"):
        open_checkpoint(tmp_path)


def test_shards_of_two_runs_are_refused(layouts, tmp_path):
    for name in ("model_world_size_4_rank_0.pt", "model_world_size_2_rank_0.pt"):
        os.link(layouts / "model_world_size_4_rank_0.pt", tmp_path / name)
    with pytest.raises(InputError, match=r"several world sizes \(2, 4\)"):
        open_checkpoint(tmp_path)


def test_the_same_rank_twice_is_refused(layouts, tmp_path):
    for rank in range(2):
        source = layouts / "model_world_size_4_rank_0.pt"
        os.link(source, tmp_path / f"model_world_size_2_rank_{rank}.pt")
    with pytest.raises(InputError, match="aren't from one save"):
        open_checkpoint(tmp_path)


def save_ranks(folder, *states):
    for rank, state in enumerate(states):
        torch.save(state, folder / f"model_world_size_{len(states)}_rank_{rank}.pt")
    return folder


def test_plain_tensors_of_one_rank(tmp_path):
    weight = torch.randn(3, 2)
    assert torch.equal(open_checkpoint(save_ranks(tmp_path, {"w": weight})).read("w"), weight)


def test_plain_tensors_that_differ_between_ranks_are_refused(tmp_path):
    checkpoint = open_checkpoint(save_ranks(tmp_path, {"w": torch.ones(2)}, {"w": torch.zeros(2)}))
    with pytest.raises(InputError, match="rank_1.pt: w has no sharding and differs"):
        checkpoint.read("w")


def test_ranks_with_different_tensors_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"hold different tensors \(v, w\)"):
        open_checkpoint(save_ranks(tmp_path, {"w": torch.ones(2)}, {"v": torch.ones(2)}))


def test_lora_adapters_are_refused(tmp_path):
    state = {"base_model.model.q_proj.lora_A.default.weight": torch.ones(2)}
    with pytest.raises(InputError, match="merge the adapter into its base model first"):
        open_checkpoint(save_ranks(tmp_path, state))


@pytest.mark.parametrize("state", [[torch.ones(2)], {"w": 3}, torch.ones(2)])
def test_anything_but_a_state_dict_is_refused(tmp_path, state):
    with pytest.raises(InputError, match="isn't a state dict of names and tensors"):
        open_checkpoint(save_ranks(tmp_path, state))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("declared_safe", [False, True])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, declared_safe):
    """Also when some other library has declared the function safe."""
    save_ranks(tmp_path, {"w": torch.ones(2), "x": Bomb(tmp_path / "ran")})
    with torch.serialization.safe_globals([os.system] if declared_safe else []):
        with pytest.raises(InputError, match=r"posix.system.*was refused: loading it could run"):
            open_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_plain_pickle_is_refused_and_not_run(tmp_path):
    file = tmp_path / "model_world_size_1_rank_0.pt"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(InputError, match="model_world_size_1_rank_0.pt"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_shard_is_named(tmp_path, keep):
    save_ranks(tmp_path, {"w": torch.ones(1000)})
    file = tmp_path / "model_world_size_1_rank_0.pt"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(InputError, match="rank_0.pt can't be read as a torch checkpoint"):
        open_checkpoint(tmp_path)


def test_import_leaves_torch_distributed_alone():
    code = (
        "import sys, amm.checkpoints\n"
        "assert 'torch.distributed.tensor' not in sys.modules\n"
        "assert not {'transformers', 'verl', 'ray', 'lipo_verl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-E", "-c", code], check=True)
