import json

import pytest
import torch
from safetensors.torch import save_file

from amm.checkpoints import open_checkpoint
from amm.errors import InputError


@pytest.mark.parametrize(
    ("key", "dtype", "method", "says"),
    [
        ("weight", torch.float8_e4m3fn, "fp8", "dequantize=True"),
        ("weight", torch.uint8, "bitsandbytes", "model.dequantize"),
        ("weight", torch.int8, "bitsandbytes", "model.dequantize"),
        ("qweight", torch.int32, "gptq", "16-bit model"),
        ("qweight", torch.int32, "awq", "16-bit model"),
        ("weight_packed", torch.int32, "compressed-tensors", "run_compressed=False"),
    ],
)
def test_quantised_models_are_refused_with_a_way_out(tmp_path, key, dtype, method, says):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(
        {f"model.layers.0.mlp.up_proj.{key}": torch.ones(4, 4).to(dtype)},
        folder / "model.safetensors",
    )
    config = {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f'quantization_config(.|\n)*"{method}"(.|\n)*{says}'):
        open_checkpoint(folder)


def test_a_configuration_alone_does_not_make_a_model_quantised(tmp_path):
    save_file(
        {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors"
    )
    config = {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path).keys() == ["model.layers.0.mlp.up_proj.weight"]
