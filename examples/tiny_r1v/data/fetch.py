"""Files of a dataset repository, from the Hugging Face Hub or from local copies of it."""

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from examples.tiny_r1v.data.errors import DataError, Unreachable
from examples.tiny_r1v.data.ranking import rank
from lipo_verl.errors import did_you_mean


@dataclass(frozen=True)
class Repository:
    """Where a dataset lies on the Hub.

    files:     patterns of paths in it (``*`` also matches ``/``); each must match at least one
    limit:     how many of the matching files are used, drawn by the seed; None for all
    gigabytes: about how large the files are that are used, where a page of the Hub said it
    kind:      ``dataset`` or ``model``
    """

    repo: str
    files: tuple[str, ...]
    limit: int | None = None
    revision: str = "main"
    gigabytes: float | None = None
    kind: str = "dataset"

    @property
    def page(self) -> str:
        """Its address."""
        return f"https://huggingface.co/{'datasets/' * (self.kind == 'dataset')}{self.repo}"


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


def check_copies(repositories: Iterable[Repository], seed: int, source_dir: Path) -> None:
    """Raises one DataError that tells of every repository without a whole copy."""
    problems = []
    for repository in repositories:
        try:
            _local(repository, seed, source_dir)
        except DataError as problem:
            problems.append(str(problem))
    if problems:
        raise DataError("\n".join([*problems, "All downloads at once: add --print-downloads DIR."]))


def downloads(repositories: Iterable[Repository], seed: int, folder: Path) -> str:
    """A shell script that downloads all files that are used to ``<folder>/<org>/<name>``.

    It names the files and their sizes as the Hub lists them. Where the Hub can't be reached it has
    patterns instead, which take more than is used of a repository with a ``limit``.
    """
    lines, total, reached = [], 0.0, True
    for repository in repositories:
        size, chosen, commit, note = repository.gigabytes, None, None, ""
        if reached:
            try:
                listed = _listing(repository, sizes=True)
                chosen = _choose(repository, sorted(listed.files), seed, repository.page)
                commit = listed.commit
                size = sum(listed.files[name] or 0 for name in chosen) / 1e9
            except Unreachable as problem:
                reached = False
                lines.append(
                    f"# {problem.reason}: sizes are estimates, and patterns stand for files."
                )
            except DataError as problem:
                note = f" {problem}"
        if not chosen and repository.limit:
            note += (
                f" This takes all files, of which {repository.limit} are used: where the Hub can "
                "be reached, the same command names them."
            )
        total += size or 0
        known = f"{'' if chosen else 'about '}{size:.2f} GB" if size else "size not known"
        lines.append(f"# {repository.repo}: {known}.{note}")
        lines.append(_command(repository, folder / repository.repo, chosen, commit))
    return "\n".join([*lines, f"# {total:.1f} GB in all, without those of which it is not known."])


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
            f"{did_you_mean(repository.repo, there)} Get it with: `{_command(repository, folder)}`"
        )
    paths = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    paths = {name: path for name, path in paths.items() if not name.startswith(".cache/")}
    chosen = _choose(repository, sorted(paths), seed, f"{folder}")
    return Fetched(None, {name: paths[name] for name in chosen})


def _from_hub(repository: Repository, seed: int) -> Fetched:
    listed = _listing(repository)
    chosen = _choose(repository, sorted(listed.files), seed, repository.page)
    with _explained(repository):
        from huggingface_hub import hf_hub_download

        return Fetched(
            listed.commit,
            {
                name: Path(
                    hf_hub_download(
                        repository.repo, name, repo_type=repository.kind, revision=listed.commit
                    )
                )
                for name in chosen
            },
        )


@dataclass(frozen=True)
class _Listing:
    """A repository's commit, and its files with their bytes where they were asked for."""

    commit: str
    files: dict[str, int | None]


def _listing(repository: Repository, sizes: bool = False) -> _Listing:
    with _explained(repository):
        from huggingface_hub import HfApi

        info = HfApi().repo_info(
            repository.repo,
            revision=repository.revision,
            repo_type=repository.kind,
            files_metadata=sizes,
        )
        return _Listing(info.sha, {file.rfilename: file.size for file in info.siblings})


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    """Turns what the Hub's client raises into a DataError that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo = repository.repo
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"{repo} is gated: accept its terms at {repository.page} and log in with "
            "`hf auth login`, or set HF_TOKEN."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DataError(
            f"The Hub has no {repository.kind} {repo} at revision {repository.revision}; it may "
            "have moved. Give a copy of it by --source-dir, or change its name in sources.py. "
            f"({repository.page})"
        ) from error
    except Exception as error:  # a download can fail in any way
        raise Unreachable(repo, error) from error


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


def _command(
    repository: Repository,
    folder: Path,
    chosen: Sequence[str] | None = None,
    commit: str | None = None,
) -> str:
    """chosen, commit: the files to name and the commit they are of; None for the patterns."""
    words = ["hf", "download", repository.repo, *(chosen or ())]
    words += ["--repo-type", repository.kind, "--local-dir", str(folder)]
    revision = commit or repository.revision
    words += ["--revision", revision] if revision != "main" else []
    for pattern in () if chosen else repository.files:
        words += ["--include", pattern]
    return shlex.join(words)
