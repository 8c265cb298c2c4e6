"""Whether `check` finds what is wrong with a merged model."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from pico_models import load_folder, run_python
from safetensors.torch import load_file, save_file

import amm
from amm import loads


@pytest.fixture
def merged(pico, tmp_path, monkeypatch):
    """A merged pico model in several files; libraries aren't tried on it, it has no real class."""
    monkeypatch.setattr("amm.checking.try_loading", lambda library, folder: (None, "left out"))
    amm.merge(*pico, output=tmp_path / "out", method="mean", max_shard_size=2000)
    return tmp_path / "out"


def results(output, base=None):
    return {check.name: check for check in amm.check(output, base).checks}


def change(folder, key, value):
    """Replace a tensor (None: take it out) in the file that holds it."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = folder / index["weight_map"][key]
    weights = load_file(file)
    if value is None:
        del weights[key]
        del index["weight_map"][key]
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        weights[key] = value
    save_file(weights, file, metadata={"format": "pt"})


def test_a_merged_model_is_whole(merged):
    result = amm.check(merged)
    assert result.ok
    assert [check.ok for check in result.checks] == [True] * 9 + [None] * 2
    assert json.loads(json.dumps(result.as_dict()))["ok"] is True


@pytest.mark.parametrize(
    ("key", "value", "failed", "said"),
    [
        ("model.norm.weight", torch.ones(17).bfloat16(), "shapes", "model.norm.weight is (17,)"),
        ("model.norm.weight", torch.ones(16), "dtypes", "model.norm.weight is float32"),
        ("model.norm.weight", torch.full((16,), torch.nan).bfloat16(), "finite", "NaN"),
        ("lm_head.weight", torch.ones(40, 16).bfloat16(), "head", "they differ"),
    ],
)
def test_what_is_wrong_is_named(merged, key, value, failed, said):
    if key == "lm_head.weight":
        weights = load_folder(merged) | {key: value}
        for file in merged.glob("model*"):
            file.unlink()
        save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    else:
        change(merged, key, value)
    found = results(merged)
    assert found[failed].ok is False and said in found[failed].detail
    assert not amm.check(merged).ok


def test_a_missing_tensor_and_a_wrong_size_are_found(merged):
    change(merged, "model.norm.weight", None)
    found = results(merged)
    assert "model.norm.weight is missing" in found["names"].detail
    assert "total_size" in found["index"].detail


def test_a_tensor_outside_the_index_is_found(merged):
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.norm.weight"]
    (merged / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.norm.weight of model-" in results(merged)["index"].detail


def test_a_changed_file_is_found(merged):
    (merged / "tokenizer.json").write_bytes(b"other")
    found = results(merged)["other files"]
    assert found.ok is False and "tokenizer.json" in found.detail


def test_libraries_are_tried_on_what_is_sound_so_far(merged, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "amm.checking.try_loading", lambda library, folder: tried.append(library) or (True, "loads")
    )
    assert results(merged)["loads in vllm"].ok and tried == ["transformers", "vllm"]
    (merged / "tokenizer.json").write_bytes(b"other")
    found = results(merged)["loads in vllm"]
    assert found.ok is None and "mend the above first" in found.detail and len(tried) == 2


def test_a_saved_dtype_is_expected(pico, tmp_path, monkeypatch):
    monkeypatch.setattr("amm.checking.try_loading", lambda library, folder: (None, "left out"))
    amm.merge(*pico, output=tmp_path / "out", method="mean", save_dtype="float32")
    assert results(tmp_path / "out")["dtypes"].ok


def test_a_base_can_be_named_or_be_gone(merged, pico):
    content = json.loads((merged / "provenance.json").read_text())
    content["config"]["base"] = "gone/away/from/here"
    (merged / "provenance.json").write_text(json.dumps(content))
    assert results(merged)["names"].ok is None
    assert results(merged, pico[0])["names"].ok is True
    with pytest.raises(amm.InputError, match="nowhere"):
        amm.check(merged, "nowhere")


def test_unreadable_weights_fail(merged):
    next(iter(sorted(merged.glob("*.safetensors")))).write_bytes(b"damaged")
    result = amm.check(merged)
    assert not result.ok and result.checks[0].name == "weights"


def test_a_library_that_is_not_installed_or_broken_is_not_tried(tmp_path, monkeypatch):
    assert loads.try_loading("no_such_library", tmp_path) == (
        None,
        "no_such_library isn't installed here",
    )
    monkeypatch.setattr(sys, "executable", "/bin/false")
    ok, said = loads.try_loading("json", tmp_path)
    assert ok is None and "can't be used here" in said


LIBRARY = """
import os, sys
class ModelConfig:
    def __init__(self, trust_remote_code, **_):
        self.architecture = os.listdir(), sys.stdin.read(), trust_remote_code
"""


def test_a_library_is_tried_where_nothing_lies_around_and_nobody_is_asked(tmp_path, monkeypatch):
    library, stranger = tmp_path / "lib" / "vllm", tmp_path / "stranger"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("__version__ = '1'")
    (library / "config.py").write_text(LIBRARY)
    stranger.mkdir()
    for name in ("vllm", "json", "typing"):
        (stranger / f"{name}.py").write_text("raise SystemExit('code of the folder ran')")
    monkeypatch.syspath_prepend(library.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(library.parent)]))
    monkeypatch.chdir(stranger)
    assert loads.try_loading("vllm", Path()) == (True, "vllm 1: ([], '', False)")


TRANSFORMERS = """
import json
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM
from amm.loads import in_transformers
config = Qwen2Config(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
)
Qwen2ForCausalLM(config).save_pretrained(sys.argv[1])
print(in_transformers(sys.argv[1]))
file = Path(sys.argv[1], "model.safetensors")
weights = load_file(file)
weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
save_file(weights, file, metadata={"format": "pt"})
print(in_transformers(sys.argv[1]))
weights["model.layers.0.mlp.other.weight"] = weights.pop("model.layers.0.mlp.up_proj.weight")
save_file(weights, file, metadata={"format": "pt"})
print(in_transformers(sys.argv[1]))
Path(sys.argv[1], "evil.py").write_text("raise SystemExit('code of the folder ran')")
file = Path(sys.argv[1], "config.json")
for name in ("AutoProcessor", "AutoModelForCausalLM", "pipeline"):
    code = {"architectures": [name], "auto_map": {name: "evil.Evil"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | code))
    print(in_transformers(sys.argv[1]))
"""


@pytest.mark.slow
def test_transformers_takes_its_own_model_and_not_one_with_a_renamed_tensor(tmp_path):
    pytest.importorskip("transformers")
    whole, twice, renamed, *choosers = run_python(TRANSFORMERS, tmp_path / "model").splitlines()[
        -6:
    ]
    assert whole.startswith("(True") and "Qwen2ForCausalLM" in whole
    assert twice.startswith("(True"), "a tied head may be stored, too"
    assert renamed.startswith("(False") and "1 missing (model.layers.0.mlp.up_proj" in renamed
    assert "1 unexpected (model.layers.0.mlp.other" in renamed
    assert all(said.startswith("(None") and "has no model class" in said for said in choosers)


BROKEN = """
import contextlib, io, json, sys, textwrap
from amm import loads

sys.path.insert(0, sys.argv[1])
answers = []
for body in json.loads(sys.argv[2]):
    exec("def load(folder):\\n" + textwrap.indent(body, " "))
    loads.TRIED = {library: ("json", load) for library in loads.TRIED}
    for library in loads.TRIED:
        sys.argv[1:] = [library, "folder"]
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                loads.main()
        except Exception as error:
            answers.append(["raised", repr(error)])
        else:
            answers.append([json.loads(printed.getvalue())[key] for key in ("ok", "detail")])
print(json.dumps(answers))
"""
VERDICTS = {
    "import broken_vision": ("raised", "operator torchvision::nms does not exist"),
    "try: import broken_vision\nexcept Exception as e: raise ValueError(1) from e": ("raised", "1"),
    "import no_such_module_at_all": ("raised", "no_such_module_at_all"),
    "raise ValueError('pass trust_remote_code=True')": (None, "own code, which isn't run here"),
    "raise ValueError('Model architectures X are not supported for now. ')": (None, "X are not"),
    "raise ValueError('vocab_size is missing')": (False, "ValueError: vocab_size is missing"),
}
"""What a library does → ok and detail; what is raised ends as "can't be used here" in both."""


@pytest.mark.slow
def test_what_a_library_can_not_try_is_the_same_for_both(tmp_path):
    (tmp_path / "broken_vision.py").write_text(
        "def load():\n  raise RuntimeError('operator torchvision::nms does not exist')\nload()"
    )
    answers = json.loads(run_python(BROKEN, tmp_path, json.dumps(list(VERDICTS))).splitlines()[-1])
    for number, (ok, said) in enumerate(VERDICTS.values()):
        for found, detail in answers[2 * number : 2 * number + 2]:
            assert found == ok and said in detail
