"""Files of datasets: seeded choice, and errors that say what to do."""

import hashlib

import pytest

from examples.tiny_r1v.data.errors import DataError
from examples.tiny_r1v.data.fetch import Repository, describe, fetch

TEN = Repository("org/name", ("data/train-*.parquet",), limit=3)


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


def test_without_network_the_command_for_another_machine_is_given(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = Repository("org/name", ("a.parquet",), revision="refs/convert/parquet")
    with pytest.raises(DataError) as error:
        fetch(repository, 0, None)
    assert "can't be had from the Hub" in str(error.value)
    assert "--revision refs/convert/parquet --include 'a.parquet'" in str(error.value)
    assert "--source-dir" in str(error.value)


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

    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    with pytest.raises(DataError, match=said):
        fetch(Repository("org/name", ("a.parquet",)), 0, None)


def test_the_hub_gives_its_files_at_the_commit_that_it_names(monkeypatch, tmp_path):
    from types import SimpleNamespace

    import huggingface_hub

    asked = []

    def download(repo, name, repo_type, revision):
        asked.append((repo, name, repo_type, revision))
        (tmp_path / name).write_text(name)
        return str(tmp_path / name)

    siblings = [SimpleNamespace(rfilename=name) for name in ("a.parquet", "README.md")]
    info = SimpleNamespace(sha="abc", siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: info)
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
