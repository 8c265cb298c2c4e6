"""What a merged model has beside its weights: all that belongs to it, and the right dtype."""

import json
import logging

import pytest
import torch
from pico_models import load_folder, save_folder
from safetensors.torch import save_file

import amm
from amm.checkpoints.donor import other_files, with_dtype

CONFIG = b"""{ "model_type": "x",\r\n  "torch_dtype" :"bfloat16", "n": "\\"dtype\\": \\"float16\\"",
 "text_config": {"dtype": "bfloat16", "dtypes": "bfloat16"}, "vision_config": {"dtype": null},
 "quantization_config": {"dtype": "int8"}, "audio": [{"torch_dtype":  "float16"}] }\t"""


def test_the_dtype_is_written_where_the_base_has_one_and_nothing_else_is_touched():
    expected = CONFIG.replace(b'"bfloat16", "n', b'"float32", "n')
    expected = expected.replace(b'"dtype": "bfloat16", "dtypes', b'"dtype": "float32", "dtypes')
    expected = expected.replace(b'"float16"}]', b'"float32"}]')
    assert with_dtype(CONFIG, torch.float32, wanted=True) == expected
    assert json.loads(expected)["n"] == json.loads(CONFIG)["n"]


@pytest.mark.parametrize(
    ("said", "stored", "wanted", "written"),
    [
        ("bfloat16", "float32", False, "float32"),
        ("float32", "bfloat16", False, "float32"),  # loads as ever, and loses nothing
        ("float32", "bfloat16", True, "bfloat16"),
        ("float16", "bfloat16", False, "bfloat16"),
    ],
)
def test_a_dtype_that_holds_the_weights_stays_unless_another_was_asked_for(
    said, stored, wanted, written
):
    config = with_dtype(b'{"dtype": "%s"}' % said.encode(), getattr(torch, stored), wanted=wanted)
    assert json.loads(config) == {"dtype": written}


def test_a_merge_saved_in_float32_says_so_and_check_sees_to_it(pico, tmp_path, monkeypatch):
    monkeypatch.setattr("amm.checking.try_loading", lambda library, folder: (None, "left out"))
    base, experts = pico
    said = b'{"text_config":  {"dtype": "bfloat16"}, "torch_dtype": "bfloat16"}'
    (base / "config.json").write_bytes(said)
    out = tmp_path / "out"
    amm.merge(base, experts, output=out, method="mean", save_dtype="float32")
    written = said.replace(b"bfloat16", b"float32")
    assert (out / "config.json").read_bytes() == written
    found = {check.name: check for check in amm.check(out).checks}
    assert found["dtype"].ok and found["other files"].ok
    assert "but for float32 in config.json" in found["other files"].detail
    (out / "config.json").write_bytes(
        written.replace(b'  {"dtype": "float32', b' {"dtype": "bfloat16')
    )
    found = {check.name: check for check in amm.check(out).checks}
    assert found["other files"].ok is False
    assert "has text_config.dtype bfloat16, the weights are float32" in found["dtype"].detail
    plain = tmp_path / "plain"
    amm.merge(base, experts, output=plain, method="mean")
    assert (plain / "config.json").read_bytes() == said, "the base's weights are bfloat16"


COPIED = {
    "spk_dict.pt",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "1_Pooling/pytorch_model.bin",
    "modeling_own.py",
    "qwen.tiktoken",
    "tokens.pkl",
    "tokenizer.model",
    "index.json",
    "speech-lora/adapter_model.safetensors",
    "campplus.onnx",
}
LEFT_OUT = {
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model-00003-of-00003.safetensors",
    "model.fp16.safetensors",
    "consolidated.00.pth",
    "original/consolidated.00.pth",
    "onnx/model.onnx",
    "model-Q8_0.gguf",
    "optimizer.pt",
    "rng_state_0.pth",
    "trainer_state.json",
    "checkpoint-10/optimizer.pt",
    "runs/a/events.out.tfevents.1",
}
REPLACED = {
    "model.safetensors.index.json",
    "odd-name-1.safetensors",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
}


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")


@pytest.fixture
def donor(tmp_path):
    """A folder with all kinds of files, and an index of weights under odd names."""
    fill(tmp_path / "donor", COPIED | LEFT_OUT | REPLACED | {".hidden"})
    weight_map = dict(zip("abc", sorted(REPLACED - {"model.safetensors.index.json"}), strict=True))
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "donor/model.safetensors.index.json").write_text(index)
    (tmp_path / "donor/pytorch_model.bin.index.json").write_text("half of")
    return tmp_path / "donor"


def test_only_the_models_weights_and_training_leftovers_are_left_out(donor):
    files = other_files(donor)
    replaced = {"pytorch_model.bin", "pytorch_model.bin.index.json"}
    assert set(files.copied) == COPIED
    assert set(files.left_out) == LEFT_OUT - replaced, "weights of a base in either format"
    numbers, code = files.warnings(donor)
    assert "1_Pooling/pytorch_model.bin, 2_Dense/model.safetensors" in numbers
    for name in ("modeling_own.py", "tokens.pkl", "spk_dict.pt"):
        assert name in code
    assert "never run here" in code and "tiktoken" not in code


def test_a_link_to_a_folder_is_left_out_and_listed(donor, tmp_path):
    (donor / "assets").symlink_to(tmp_path)
    assert "assets" in other_files(donor).left_out


def test_plan_merge_and_card_say_what_is_copied_unmerged_and_what_is_left_out(
    pico, tmp_path, caplog
):
    base, experts = pico
    fill(base, ["modeling_own.py", "optimizer.pt"])
    (base / "2_Dense").mkdir()
    save_file({"linear.weight": torch.ones(2, 2)}, base / "2_Dense/model.safetensors")
    plan = amm.plan(base, experts, method="mean")
    assert "2_Dense/model.safetensors" in plan.copied_files and plan.left_out == ["optimizer.pt"]
    with caplog.at_level(logging.WARNING, "amm"):
        result = amm.merge(base, experts, output=tmp_path / "out", method="mean")
    assert plan.ok and plan.warnings == result.warnings and len(plan.warnings) == 2
    card = (tmp_path / "out/README.md").read_text()
    for warning in plan.warnings:
        assert warning in caplog.text and warning in card
    assert "Left out of the other files: optimizer.pt." in card
    assert (tmp_path / "out/modeling_own.py").read_bytes() == b"{}"
    assert torch.equal(load_folder(tmp_path / "out/2_Dense")["linear.weight"], torch.ones(2, 2))


def test_a_base_of_training_shards_has_its_own_dtype_written(pico, tmp_path):
    """verl's shards hold fp32 master weights beside a config.json that says bfloat16."""
    base, experts = pico
    weights = {key: value.float() for key, value in load_folder(base).items()}
    wide = save_folder(tmp_path / "wide", weights)
    (wide / "config.json").write_text('{"dtype": "bfloat16"}')
    amm.merge(wide, experts, output=tmp_path / "out", method="mean")
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"dtype": "float32"}
