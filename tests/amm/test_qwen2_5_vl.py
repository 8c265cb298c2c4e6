"""From FSDP2 shards of a tiny Qwen2.5-VL, as verl saves them, to what transformers loads."""

import pytest
import torch
from pico_models import load_folder, run_python, run_ranks

import amm

pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

IMPORTS = """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
"""
SAVE = """
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]},
        ),
        vision_config=dict(
            depth=2, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=16,
            patch_size=4, spatial_merge_size=2, window_size=16, fullatt_block_indexes=[1],
        ),
        image_token_id=60, video_token_id=61, vision_start_token_id=62, vision_end_token_id=63,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    base = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    if rank == 0:
        base.save_pretrained(folder / "base")
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
    for seed, name in ((1, "math"), (2, "charts")):
        torch.manual_seed(0)
        expert = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16).float()
        torch.manual_seed(seed)
        for parameter in expert.parameters():
            parameter.data += 1e-3 * torch.randn_like(parameter)
        for layer in expert.model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(expert, mesh=mesh)
        actor = folder / name / "global_step_2" / "actor"
        actor.mkdir(parents=True, exist_ok=True)
        torch.save(expert.state_dict(), actor / f"model_world_size_{world}_rank_{rank}.pt")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = {world: tmp_path_factory.mktemp(f"runs{world}") for world in (1, 2)}
    run_ranks(IMPORTS, SAVE, folders)
    return folders


LOAD = """
from transformers import Qwen2_5_VLForConditionalGeneration
model, loading = Qwen2_5_VLForConditionalGeneration.from_pretrained(
    sys.argv[1], output_loading_info=True, dtype="auto"
)
assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
assert model.dtype == torch.bfloat16
assert model(input_ids=torch.arange(8)[None]).logits.isfinite().all()
print("loaded")
"""


def merge(folder, output):
    experts = [folder / name / "global_step_2" for name in ("math", "charts")]
    return amm.merge(folder / "base", experts, output=output, parameters={"steps": 20})


def test_merged_shards_load_in_transformers(runs, tmp_path):
    merge(runs[2], tmp_path / "out")
    assert "loaded" in run_python(LOAD, tmp_path / "out")


def test_output_has_the_bases_names_shapes_dtypes_and_files(runs, tmp_path):
    merge(runs[2], tmp_path / "out")
    before, after = load_folder(runs[2] / "base"), load_folder(tmp_path / "out")
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in before.items()
    }
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (runs[2] / "base" / name).read_bytes()


def test_linear_layers_are_optimised_and_nothing_else(runs, tmp_path):
    result = merge(runs[1], tmp_path / "out")
    optimised = {tensor.name for tensor in result.tensors if tensor.rule == "amm"}
    text, vision, merger = 2 * 7, 2 * 5, 2
    assert len(optimised) == text + vision + merger
    assert not any("embed" in name or "norm" in name or "bias" in name for name in optimised)


def test_number_of_ranks_does_not_matter(runs, tmp_path):
    for world in (1, 2):
        merge(runs[world], tmp_path / str(world))
    one, two = (load_folder(tmp_path / str(world)) for world in (1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
