"""Files of a dataset repository, from the Hugging Face Hub or from local copies of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from examples.tiny_r1v.data.errors import DataError, did_you_mean
from examples.tiny_r1v.data.ranking import rank


@dataclass(frozen=True)
class Repository:
    """Where a dataset lies on the Hub.

    files: patterns of paths in it (``*`` also matches ``/``); each must match at least one
    limit: how many of the matching files are used, drawn by the seed; None for all
    """

    repo: str
    files: tuple[str, ...]
    limit: int | None = None
    revision: str = "main"


@dataclass(frozen=True)
class Fetched:
    """Files on this machine, by their paths in the repository, and the commit they are of."""

    commit: str | None
    files: dict[str, Path]

    def identity(self) -> list[list[object]]:
        """What tells these files from others without reading them: path, size, commit."""
        return [[name, path.stat().st_size, self.commit] for name, path in self.files.items()]

    def hashes(self) -> dict[str, dict[str, object]]:
        """Size in bytes and sha256 of each file."""
        return {name: describe(path) for name, path in self.files.items()}


def describe(path: Path) -> dict[str, object]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def fetch(repository: Repository, seed: int, source_dir: Path | None) -> Fetched:
    """The repository's files: downloaded unless the Hub's cache has them, or under ``source_dir``.

    source_dir: holds a folder ``<org>/<name>`` for each dataset, laid out like the repository;
                None for the Hub

    Raises DataError where there is no network, no access, or no file of the expected name.
    """
    if source_dir is not None:
        return _local(repository, seed, source_dir)
    return _from_hub(repository, seed)


def _local(repository: Repository, seed: int, source_dir: Path) -> Fetched:
    folder = source_dir / repository.repo
    if not folder.is_dir():
        there = sorted(str(path.relative_to(source_dir)) for path in source_dir.glob("*/*"))
        raise DataError(
            f"{source_dir} has no folder {repository.repo}."
            f"{did_you_mean(repository.repo, there)} Get it with: {_command(repository, folder)}"
        )
    paths = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    chosen = _choose(repository, sorted(paths), seed, f"{folder}")
    return Fetched(None, {name: paths[name] for name in chosen})


def _from_hub(repository: Repository, seed: int) -> Fetched:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, revision = repository.repo, repository.revision
    page = f"https://huggingface.co/datasets/{repo}"
    try:
        info = HfApi().dataset_info(repo, revision=revision)
        there = sorted(sibling.rfilename for sibling in info.siblings)
        chosen = _choose(repository, there, seed, page)
        files = {
            name: Path(hf_hub_download(repo, name, repo_type="dataset", revision=info.sha))
            for name in chosen
        }
    except DataError:
        raise
    except GatedRepoError as error:
        raise DataError(
            f"{repo} is gated: accept its terms at {page} and log in with `hf auth login`, or set "
            "HF_TOKEN."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DataError(
            f"The Hub has no dataset {repo} at revision {revision}; it may have moved. Give a copy "
            f"of it by --source-dir, or change its name in sources.py. ({page})"
        ) from error
    except Exception as error:  # a download can fail in any way
        reason = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{repo} can't be had from the Hub ({type(error).__name__}: {reason}). Run the same "
            "command again to go on where it stopped. Without network here: on a machine that has "
            f"it, {_command(repository, Path('DIR') / repo)}; then --source-dir DIR."
        ) from error
    return Fetched(info.sha, files)


def _choose(repository: Repository, there: Sequence[str], seed: int, where: str) -> list[str]:
    chosen: list[str] = []
    for pattern in repository.files:
        matching = [name for name in there if fnmatch(name, pattern)]
        if not matching:
            known = ", ".join(there[:8]) + (" …" if len(there) > 8 else "")
            raise DataError(
                f"{where} has no file {pattern}.{did_you_mean(pattern, there)} It has: "
                f"{known or 'nothing'}. Its layout has changed if this is a whole copy."
            )
        chosen += sorted(matching, key=lambda name: rank(seed, "file", repository.repo, name))[
            : repository.limit
        ]
    return sorted(set(chosen))


def _command(repository: Repository, folder: Path) -> str:
    wanted = " ".join(f"--include '{pattern}'" for pattern in repository.files)
    revision = "" if repository.revision == "main" else f" --revision {repository.revision}"
    return (
        f"`hf download {repository.repo} --repo-type dataset{revision} {wanted} "
        f"--local-dir {folder}`"
    )
