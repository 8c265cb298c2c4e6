"""Models of the Hugging Face Hub, from a cache made by hand: nothing is downloaded."""

import pytest
import torch
from pico_models import save_folder

from amm.checkpoints import open_checkpoint
from amm.checkpoints.hub import local_folder, may_be_the_same
from amm.errors import InputError

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An offline Hub, whose cache has acme/pico at `main` and at `v1`."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--acme--pico"
    snapshot = save_folder(model / "snapshots" / COMMIT, {"w": torch.ones(2)})
    (model / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(model / "blobs" / "0a1b")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a1b")
    (model / "refs").mkdir()
    for name in ("main", "v1"):
        (model / "refs" / name).write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("name", ["acme/pico", "acme/pico@v1", f"acme/pico@{COMMIT}"])
def test_a_model_is_found_by_its_name(offline, name):
    checkpoint = open_checkpoint(name)
    assert checkpoint.path == checkpoint.files_folder == offline
    assert torch.equal(checkpoint.read("w"), torch.ones(2))


@pytest.mark.parametrize("name", ["acme/other", "acme/pico@v2"])
def test_what_the_cache_lacks_is_an_error_offline(offline, name):
    with pytest.raises(InputError, match=f"{name} doesn't exist here, and .*HF_HUB_OFFLINE"):
        open_checkpoint(name)


def test_a_folder_of_that_name_comes_first(offline, tmp_path):
    local = save_folder(tmp_path / "here" / "acme" / "pico", {"w": torch.zeros(2)})
    assert torch.equal(open_checkpoint("acme/pico").read("w"), torch.zeros(2))
    assert local_folder("acme/pico").absolute() == local


@pytest.mark.parametrize("path", ["/no/such", "no", "a/b/c", "./a/b", "../b", "~/no-such"])
def test_paths_that_can_not_be_names_are_not_looked_up(monkeypatch, path):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(InputError, match="doesn't exist; check the path"):
        open_checkpoint(path)


def test_all_that_belongs_to_the_model_is_asked_for_and_no_other_format(monkeypatch, tmp_path):
    save_folder(tmp_path / "downloaded", {"w": torch.ones(2)})
    asked = {}

    def download(repository, **arguments):
        asked.update(arguments, repository=repository)
        return str(tmp_path / "downloaded")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    open_checkpoint("acme/pico@v1")
    assert asked["repository"] == "acme/pico" and asked["revision"] == "v1"
    files = ["model.safetensors", "config.json", "merges.txt", "chat_template.jinja", "README.md"]
    files += ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "spk_dict.pt"]
    files += [
        "modeling_own.py",
        "qwen.tiktoken",
        "2_Dense/model.safetensors",
        "a/pytorch_model.bin",
    ]
    unwanted = ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "onnx/model.safetensors"]
    unwanted += ["original/consolidated.00.pth", "consolidated.safetensors", "m-Q4_K_M.gguf"]
    unwanted += ["optimizer.pt", "checkpoint-500/model.safetensors", "runs/events.out.tfevents.1"]
    chosen = huggingface_hub.utils.filter_repo_objects(
        files + unwanted,
        allow_patterns=asked.get("allow_patterns"),
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(chosen) == files


def test_a_failed_download_says_why(monkeypatch):
    def download(*arguments, **options):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(InputError, match=r"Hub \(ConnectionError: no route\); check"):
        open_checkpoint("acme/pico")


SNAPSHOT = f"hub/models--Qwen--Qwen2.5-3B/snapshots/{COMMIT}"


@pytest.mark.parametrize(
    ("said", "given", "same"),
    [
        ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B", True),
        ("Qwen/Qwen2.5-3B", "models/Qwen2.5-3B", True),
        ("models/Qwen2.5-3B", "Qwen/Qwen2.5-3B", True),
        ("/root/models/qwen2.5-3b/", "Qwen/Qwen2.5-3B", True),
        ("C:\\models\\Qwen2.5-3B", "Qwen/Qwen2.5-3B", True),
        (f"/root/.cache/{SNAPSHOT}", "Qwen/Qwen2.5-3B", True),
        ("unsloth/qwen2.5-3b-unsloth-bnb-4bit", "Qwen/Qwen2.5-3B", True),
        ("./base", "base", True),
        ("/runs/sft/checkpoint-100", "sft/checkpoint-100", True),
        ("Qwen/Qwen2.5-3B@main", "Qwen/Qwen2.5-3B", True),
        ("Qwen/Qwen2.5-3B@v2", "Qwen/Qwen2.5-3B@v2", True),
        (f"Qwen/Qwen2.5-3B@{COMMIT[:8]}", "Qwen/Qwen2.5-3B", True),
        ("Qwen/Qwen2.5-3B@v2", "models/Qwen2.5-3B", True),
        ("Qwen/Qwen2.5-3B@v2", "Qwen/Qwen2.5-3B", False),
        ("Qwen/Qwen2.5-3B@main", "Qwen/Qwen2.5-3B@v2", False),
        ("acme/Qwen2.5-3B", "Qwen/Qwen2.5-3B", False),
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B", False),
        ("/runs/sft", "original", False),
        ("/runs/sft/checkpoint-100", "rl/checkpoint-100", False),
        ("/runs/sft/global_step_9/actor/huggingface", "base/huggingface", False),
        ("a" * 5000, "original", False),
    ],
)
def test_a_model_is_told_by_what_its_name_says(said, given, same, tmp_path):
    is_id = given.startswith("Qwen/")
    folder = tmp_path / (SNAPSHOT if is_id else given)
    folder.mkdir(parents=True)
    assert may_be_the_same(said, given if is_id else folder, folder) is same


def test_a_link_is_what_it_leads_to(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").symlink_to("one")
    assert may_be_the_same(str(tmp_path / "other"), tmp_path / "one", tmp_path / "one")
