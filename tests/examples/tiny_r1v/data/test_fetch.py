"""Files of datasets: seeded choice, and errors that say what to do."""

import hashlib
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from examples.tiny_r1v.data.errors import DataError
from examples.tiny_r1v.data.fetch import Repository, check_copies, describe, downloads, fetch

TEN = Repository("org/name", ("data/train-*.parquet",), limit=3)


def listing(*names):
    """``HfApi.repo_info`` of a repository with these files, of a billion bytes each."""
    siblings = [SimpleNamespace(rfilename=name, size=10**9) for name in names]
    return lambda *_, **__: SimpleNamespace(sha="abc", siblings=siblings)


@pytest.fixture
def copies(tmp_path):
    folder = tmp_path / "org/name/data"
    folder.mkdir(parents=True)
    for i in range(10):
        (folder / f"train-{i}.parquet").write_bytes(bytes([i]))
    return tmp_path


def test_the_seed_decides_which_files_are_used(copies):
    chosen = {seed: tuple(fetch(TEN, seed, copies).files) for seed in range(8)}
    assert all(len(files) == 3 for files in chosen.values())
    assert len(set(chosen.values())) > 1
    assert chosen[1] == tuple(fetch(TEN, 1, copies).files)


def test_a_file_that_is_added_displaces_at_most_one(copies):
    before = set(fetch(TEN, 0, copies).files)
    (copies / "org/name/data/train-99.parquet").write_bytes(b"")
    assert len(before & set(fetch(TEN, 0, copies).files)) >= 2


def test_a_missing_folder_names_a_similar_one_and_the_download(copies):
    with pytest.raises(DataError) as error:
        fetch(Repository("org/nam", ("*",)), 0, copies)
    assert "Did you mean org/name?" in str(error.value)
    assert "hf download org/nam --repo-type dataset" in str(error.value)


def test_a_missing_file_names_what_is_there(copies):
    with pytest.raises(DataError, match=r"no file data/tain-\*.* Did you mean data/train-"):
        fetch(Repository("org/name", ("data/tain-*.parquet",)), 0, copies)


def test_without_network_the_option_for_another_machine_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = Repository("org/name", ("a.parquet",), revision="refs/convert/parquet")
    with pytest.raises(DataError) as error:
        fetch(repository, 0, None)
    assert "can't be had from the Hub" in str(error.value)
    assert "--print-downloads DIR" in str(error.value)
    assert "--source-dir DIR" in str(error.value)


@pytest.mark.parametrize(
    "name, said",
    [
        ("GatedRepoError", "accept its terms at https://huggingface.co/datasets/org/name"),
        ("RepositoryNotFoundError", "no dataset org/name at revision main"),
    ],
)
def test_refusals_of_the_hub_are_explained(monkeypatch, name, said):
    from huggingface_hub import HfApi, errors

    def refuse(*_, **__):
        cls = getattr(errors, name)
        raise cls.__new__(cls)

    monkeypatch.setattr(HfApi, "repo_info", refuse)
    with pytest.raises(DataError, match=said):
        fetch(Repository("org/name", ("a.parquet",)), 0, None)


def test_the_hub_gives_its_files_at_the_commit_that_it_names(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def download(repo, name, repo_type, revision):
        asked.append((repo, name, repo_type, revision))
        (tmp_path / name).write_text(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", listing("a.parquet", "README.md"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fetched = fetch(Repository("org/name", ("*.parquet",)), 0, None)
    assert asked == [("org/name", "a.parquet", "dataset", "abc")]
    assert (fetched.commit, list(fetched.files)) == ("abc", ["a.parquet"])


def test_a_file_is_described_by_size_and_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert describe(tmp_path / "a") == {
        "bytes": 3000,
        "sha256": hashlib.sha256(b"abc" * 1000).hexdigest(),
    }


def test_all_missing_copies_are_named_at_once(copies):
    present, gone = Repository("org/name", ("data/*",)), Repository("org/gone", ("*",))
    check_copies([present], 0, copies)
    other = Repository("org/name", ("test-*",), revision="refs/convert/parquet")
    with pytest.raises(DataError) as error:
        check_copies([gone, present, other], 0, copies)
    said = str(error.value)
    assert "no folder org/gone" in said and "no file test-*" in said
    assert "--print-downloads" in said


def test_what_the_downloader_leaves_beside_the_files_is_none_of_them(copies):
    (copies / "org/name/.cache/huggingface").mkdir(parents=True)
    (copies / "org/name/.cache/huggingface/data.parquet").write_bytes(b"")
    assert len(fetch(Repository("org/name", ("*",)), 0, copies).files) == 10


def commands(script):
    return [shlex.split(line) for line in script.splitlines() if not line.startswith("#")]


def test_downloads_name_the_files_that_a_build_would_use_with_their_size(
    monkeypatch, copies, tmp_path
):
    import huggingface_hub

    names = [f"data/train-{i}.parquet" for i in range(10)]
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", listing(*names, "README.md"))
    model = Repository("org/model", ("*",), kind="model")
    script = downloads([TEN, model], 0, tmp_path / "a b")
    data, weights = commands(script)
    used = list(fetch(TEN, 0, copies).files)
    assert data == [
        *("hf", "download", "org/name", *used, "--repo-type", "dataset"),
        *("--local-dir", str(tmp_path / "a b/org/name"), "--revision", "abc"),
    ]
    assert weights[3:15] == [*("README.md", *names), "--repo-type"] and weights[15] == "model"
    assert "# org/name: 3.00 GB." in script and "# 14.0 GB in all" in script


def test_downloads_without_network_are_patterns_and_warn_of_what_is_too_much(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    known = Repository("org/b", ("b.zip",), revision="refs/convert/parquet", gigabytes=1.5)
    script = downloads([TEN, known], 0, Path("DIR"))
    assert [words[-2:] for words in commands(script)] == [
        ["--include", "data/train-*.parquet"],
        ["--include", "b.zip"],
    ]
    assert "size not known. This takes all files, of which 3 are used" in script
    assert "# org/b: about 1.50 GB." in script
    assert "--revision refs/convert/parquet" in script


def test_downloads_go_on_after_a_repository_that_is_gated(monkeypatch, tmp_path):
    from huggingface_hub import HfApi, errors

    def info(self, repo, **_):
        if repo == "org/gated":
            raise errors.GatedRepoError.__new__(errors.GatedRepoError)
        return listing("a.zip")()

    monkeypatch.setattr(HfApi, "repo_info", info)
    script = downloads([Repository("org/gated", ("*",)), Repository("org/b", ("*",))], 0, tmp_path)
    assert "org/gated is gated: accept its terms" in script
    assert commands(script)[1][3] == "a.zip"
