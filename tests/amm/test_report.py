"""What a merge leaves beside the weights."""

import hashlib
import json
import os

import pytest
import yaml
from pico_models import OTHER_FILES, load_folder, save_folder

import amm
from amm.report import CARD_FILE, PLOT_FILES, PROVENANCE_FILE

QUICK = {"parameters": {"steps": 2}}
CARD = (
    b"---\nlicense: other\nlicense_name: qwen\ntags: [x]\nlicense_link: [not text]\n---\n# Qwen\n"
)


def provenance(folder):
    return json.loads((folder / PROVENANCE_FILE).read_text())


def metadata(folder):
    _, front, text = (folder / CARD_FILE).read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_provenance_has_hashes_versions_settings_and_figures(pico, tmp_path):
    base, experts = pico
    result = amm.merge(base, experts, output=tmp_path / "out", **QUICK)
    content = provenance(tmp_path / "out")
    assert [model["path"] for model in content["inputs"]] == [str(base), *map(str, experts)]
    for model, folder in zip(content["inputs"], [base, *experts], strict=True):
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert model["sha256"] == {"model.safetensors": digest}
    assert content["config"]["parameters"]["steps"] == 2
    assert {"amm", "torch", "safetensors", "python"} <= set(content["versions"])
    layers = {t["name"]: t["layer"] for t in content["tensors"] if t["layer"]}
    for tensor in result.tensors:
        if tensor.layer is not None:
            assert layers[tensor.name]["loss_after"] == tensor.layer.loss_after
            assert layers[tensor.name]["cosines"] == list(tensor.layer.cosines)


def test_same_inputs_give_the_same_bytes(pico, tmp_path):
    for name in ("a", "b"):
        amm.merge(*pico, output=tmp_path / name, **QUICK)
    files = sorted(file.name for file in (tmp_path / "a").iterdir() if file.is_file())
    assert {PROVENANCE_FILE, CARD_FILE} <= set(files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_card_has_the_hubs_metadata_and_the_donors_licence(pico, tmp_path):
    base, experts = pico
    (base / CARD_FILE).write_bytes(CARD)
    amm.merge(base, experts, output=tmp_path / "out", method="mean")
    front, text = metadata(tmp_path / "out")
    assert front == {
        "library_name": "transformers",
        "base_model": ["base"],
        "base_model_relation": "merge",
        "tags": ["merge", "amm", "mean"],
        "license": "other",
        "license_name": "qwen",
    }
    assert "`README.base.md`" in text and str(experts[1]) in text


def test_donors_files_are_kept_under_other_names(pico, tmp_path):
    base, experts = pico
    (base / CARD_FILE).write_bytes(CARD)
    (base / "README.base.md").write_bytes(b"older")
    (base / PROVENANCE_FILE).write_bytes(b"{}")
    amm.merge(base, experts, output=tmp_path / "out", **QUICK)
    out = tmp_path / "out"
    assert (out / "README.base.md").read_bytes() == b"older"
    assert (out / "README.base2.md").read_bytes() == CARD
    assert (out / "provenance.base.json").read_bytes() == b"{}"
    copied = provenance(out)["copied_files"]
    assert copied[CARD_FILE] == "README.base2.md" and copied["README.base.md"] == "README.base.md"
    assert set(copied) == {*OTHER_FILES, CARD_FILE, "README.base.md", PROVENANCE_FILE}


@pytest.mark.parametrize(
    "card",
    [
        b"# no metadata",
        b"---\n: [\n---\n",
        b"---\n- a\n---\n",
        b"\xff",
        b"",
        b"license: mit\n",
        b"---\nlicense: 2024-02-30\n---\n",
        b"---\nlicense: " + b"[" * 20000 + b"\n---\n",
        b"---" + b"\n" * 200000 + b"license: mit\n",
    ],
)
def test_a_donors_card_without_a_licence_gives_none(pico, tmp_path, card):
    (pico[0] / CARD_FILE).write_bytes(card)
    amm.merge(*pico, output=tmp_path / "out", method="mean")
    assert "license" not in metadata(tmp_path / "out")[0]


def test_a_licence_is_found_beside_metadata_that_is_no_yaml(pico, tmp_path):
    (pico[0] / CARD_FILE).write_bytes(b"---\ndate: 2024-02-30\nlicense: mit\nx: [\n---\n")
    amm.merge(*pico, output=tmp_path / "out", method="mean")
    assert metadata(tmp_path / "out")[0]["license"] == "mit"


def test_names_cannot_write_into_the_card(pico, tmp_path):
    base, experts = pico
    experts[0] = experts[0].rename(tmp_path / "a`<img src=x>\n# [b](c)|d")
    amm.merge(base, experts, output=tmp_path / "out", method="mean")
    text = metadata(tmp_path / "out")[1]
    assert "\n# [b]" not in text and "`` " + str(tmp_path) in text
    assert "a`<img src=x>\\n# [b](c)\\|d ``" in text


def test_names_that_are_not_utf8_do_not_stop_the_reports(pico, tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    (pico[0] / name).write_text("x")
    amm.merge(*pico, output=tmp_path / "out", method="mean")
    assert (tmp_path / "out" / name).read_text() == "x"
    assert provenance(tmp_path / "out")["copied_files"][name] == name


def test_pictures_that_fail_cost_a_warning_and_not_the_merge(pico, tmp_path, monkeypatch):
    def draw(*_):
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr("amm.report.draw_norms", draw)
    result = amm.merge(*pico, output=tmp_path / "out", **QUICK)
    assert "latex could not be found" in result.warnings[-1]
    assert result.warnings[-1] in metadata(tmp_path / "out")[1]
    assert not list((tmp_path / "out").glob("*.png"))


def test_warnings_and_pictures_are_in_the_card(pico, tmp_path):
    pytest.importorskip("matplotlib")
    result = amm.merge(*pico, output=tmp_path / "out", parameters={"steps": 2, "scale": 9.0})
    text = metadata(tmp_path / "out")[1]
    assert result.warnings and all(warning in text for warning in result.warnings)
    for name in PLOT_FILES:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text


def test_without_matplotlib_there_are_no_pictures_and_a_line_says_so(pico, tmp_path, monkeypatch):
    monkeypatch.setattr("amm.report.can_draw", lambda: False)
    amm.merge(*pico, output=tmp_path / "out", **QUICK)
    assert not list((tmp_path / "out").glob("*.png"))
    assert "matplotlib wasn't installed" in metadata(tmp_path / "out")[1]


def test_hashes_that_were_not_wanted_are_said_to_be_missing(pico, tmp_path):
    amm.merge(*pico, output=tmp_path / "out", method="mean", hash_inputs=False)
    assert metadata(tmp_path / "out")[1].count("not computed") == 3


def test_a_frozen_expert_is_drawn_and_reported(pico, tmp_path):
    base, experts = pico
    key = "model.layers.0.mlp.up_proj.weight"
    frozen = load_folder(experts[0]) | {key: load_folder(base)[key].float()}
    experts[0] = save_folder(tmp_path / "frozen", frozen)
    amm.merge(base, experts, output=tmp_path / "out", **QUICK)
    (tensor,) = [t for t in provenance(tmp_path / "out")["tensors"] if t["name"] == key]
    assert tensor["layer"]["cosines"][0] is None and tensor["layer"]["norms"][0] == 0
