"""Reader of FSDP shards, on shards that torch's FSDP2 and DTensor saved in real process groups."""

import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from pico_models import run_ranks

from amm.checkpoints import open_checkpoint
from amm.errors import InputError

pytestmark = pytest.mark.slow

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

FSDP1_IMPORTS = """
    import warnings
    warnings.simplefilter("ignore")
    from torch import nn
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        FullyShardedDataParallel as FSDP, ShardedStateDictConfig, StateDictType,
    )
"""

SAVE_FSDP1 = """
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3, bias=False)
            self.register_buffer("steps", torch.arange(3.0))

    name = f"model_world_size_{world}_rank_{rank}.pt"
    for kind in ("verl", "easyr1", "no_mesh"):
        torch.manual_seed(0)
        model, cpu = Model(), torch.device("cpu")
        (folder / kind).mkdir(exist_ok=True)
        if rank == 0:
            torch.save(model.state_dict(), folder / "whole.pt")
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
        model = FSDP(model, device_id=cpu, device_mesh=None if kind == "no_mesh" else mesh)
        if kind == "easyr1":
            state = get_model_state_dict(model, options=StateDictOptions(cpu_offload=True))
        else:
            sharded = StateDictType.SHARDED_STATE_DICT, ShardedStateDictConfig()
            with FSDP.state_dict_type(model, *sharded):
                state = model.state_dict()
        torch.save(state, folder / kind / name)
"""
"""As verl's and EasyR1's FSDPCheckpointManager save an FSDP1 model, and as neither does."""

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


@pytest.fixture(scope="module")
def fsdp1(tmp_path_factory):
    folders = {world: tmp_path_factory.mktemp(f"fsdp1_{world}") for world in (1, 2)}
    run_ranks(FSDP1_IMPORTS, SAVE_FSDP1, folders)
    return folders


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", ["verl", "easyr1"])
def test_fsdp1_shards_make_up_the_model_bit_for_bit(fsdp1, world, kind):
    """On one rank FSDP1 saves plain tensors, on more DTensors beside plain buffers."""
    whole = torch.load(fsdp1[world] / "whole.pt", weights_only=True)
    checkpoint = open_checkpoint(fsdp1[world] / kind)
    assert checkpoint.keys() == sorted(whole)
    assert all(torch.equal(checkpoint.read(key), whole[key]) for key in whole)


def test_sharded_tensors_are_refused_by_name(fsdp1):
    with pytest.raises(InputError, match="rank_0.pt holds ShardedTensors, which FSDP1 saves where"):
        open_checkpoint(fsdp1[2] / "no_mesh")


OLDER_NAMES = {
    "torch.distributed.tensor\nDTensor": "torch.distributed._tensor.api\nDTensor",
    "tensor._dtensor_spec\nDTensorSpec": "_tensor.placement_types\nDTensorSpec",
    "tensor._dtensor_spec\nTensorMeta": "_tensor.placement_types\nTensorMeta",
    "tensor.placement_types\nShard": "_tensor.placement_types\nShard",
    "tensor.placement_types\nReplicate": "_tensor.placement_types\nReplicate",
    "distributed.device_mesh\nDeviceMesh": "distributed._tensor.device_mesh\nDeviceMesh",
}
"""torch ≥ 2.5 → where the same classes were before."""


def test_names_of_older_torch_are_read(layouts, tmp_path):
    for file in layouts.glob("*.pt"):
        with zipfile.ZipFile(file) as before, zipfile.ZipFile(tmp_path / file.name, "w") as after:
            for record in before.infolist():
                content = before.read(record)
                if record.filename.endswith("data.pkl"):
                    for new, old in OLDER_NAMES.items():
                        assert new.encode() in content
                        content = content.replace(new.encode(), old.encode())
                after.writestr(record.filename, content)
    one, two = open_checkpoint(layouts), open_checkpoint(tmp_path)
    assert one.keys() == two.keys()
    assert all(torch.equal(one.read(key), two.read(key)) for key in one.keys())


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def test_rows_of_one_shard_are_read_without_a_copy(layouts):
    checkpoint = open_checkpoint(layouts)
    first, second = (checkpoint.read("rows", slice(0, n)) for n in (1, 2))
    assert address(first) == address(second)
    assert address(checkpoint.read("few")) == address(checkpoint.read("few", slice(0, 1)))
    assert address(checkpoint.read("plain", slice(2, 3))) == address(checkpoint.read("plain"))


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


@pytest.mark.parametrize("original, copy", [(0, 1), (3, 0), (1, 2)])
def test_a_rank_copied_over_another_is_named(layouts, tmp_path, original, copy):
    """Parts of one size make up the shape all the same: the place in the mesh tells."""
    for rank in range(4):
        source = layouts / f"model_world_size_4_rank_{original if rank == copy else rank}.pt"
        os.link(source, tmp_path / f"model_world_size_4_rank_{rank}.pt")
    first, second = sorted((original, copy))
    with pytest.raises(InputError, match=rf"rank_{second}.pt says .*rank_{first}.pt .*is a copy"):
        open_checkpoint(tmp_path)


def test_a_part_of_a_larger_mesh_is_refused(layouts, tmp_path):
    for rank, source in enumerate((0, 3)):
        source = layouts / f"model_world_size_4_rank_{source}.pt"
        os.link(source, tmp_path / f"model_world_size_2_rank_{rank}.pt")
    with pytest.raises(InputError, match="the 2 parts of .* aren't those of one device mesh"):
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


def test_ranks_with_different_dtypes_are_refused(tmp_path):
    folder = save_ranks(tmp_path, {"w": torch.ones(2)}, {"w": torch.ones(2).double()})
    with pytest.raises(InputError, match="w has another kind, shape or dtype on some ranks"):
        open_checkpoint(folder)


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


def test_missing_ranks_of_an_absurd_world_are_named_at_once(tmp_path):
    (tmp_path / "model_world_size_999999_rank_3.pt").touch()
    with pytest.raises(InputError, match="rank_0.pt, .*: all 999999 ranks are needed"):
        open_checkpoint(tmp_path)


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
        "assert not {'transformers', 'verl', 'ray', 'lipo_verl.batch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-E", "-c", code], check=True)
