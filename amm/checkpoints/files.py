"""Files of a checkpoint, taken for untrusted: what they are is checked before they are opened.

What can't be told without a hash of the original: flipped bits in the data that leave every entry
finite. Put the hashes of the published files beside those in the merge's report.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from amm.errors import InputError

JSON_LIMIT = 2**25
"""Bytes of JSON that are parsed; the index of a model with 10 000 tensors has about 2²⁰."""

_LFS_POINTER = b"version https://git-lfs"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half a character, in JSON; a text with such a half by itself can't be written anywhere."""


def is_there(file: Path) -> bool:
    """Whether a folder has an entry of that name, also a link to nothing or a pipe."""
    return os.path.lexists(file)


def check_file(file: Path) -> None:
    """Check that a file is there, regular (or a link to such a one), and not a Git LFS pointer.

    Raises:
        InputError: it isn't.
    """
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise InputError(
            f"{file} can't be read ({error.strerror}); download or copy it again."
        ) from None
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{file} isn't a regular file but a folder, a pipe, a socket or a device; put the file"
            " itself there."
        )
    with _opened(file) as content:
        if content.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise InputError(
                f"{file} is a Git LFS pointer, not the file itself; run `git lfs pull` there."
            )


def check_size(file: Path, size: int) -> None:
    """Check that a mapped file hasn't become shorter; touching what it lacks ends the process.

    Raises:
        InputError: it has.
    """
    if os.stat(file).st_size < size:
        raise InputError(f"{file} was cut short while it was read; copy it again.")


def read_small(file: Path, what: str, limit: int = JSON_LIMIT) -> bytes:
    """All bytes of a file that isn't one of weights.

    Args:
        file: where it is.
        what: what it should be, for the message, such as "an index of weight files".
        limit: bytes that it may have.

    Raises:
        InputError: it has more, or isn't a regular file that can be read.
    """
    check_file(file)
    with _opened(file) as content:
        text = content.read(limit + 1)
    if len(text) > limit:
        raise InputError(
            f"{file} has more than {limit:,} bytes, too many for {what}; download it again."
        )
    return text


def read_json(file: Path, what: str, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Read a JSON object of bounded size, without duplicate keys; see `read_small`.

    Raises:
        InputError: it isn't one.
    """
    return parse_json(read_small(file, what, limit), file, what)


def read_config(folder: Path | None) -> dict[str, Any]:
    """The content of a folder's config.json; empty where there is none that can be read."""
    try:
        return read_json(folder / "config.json", "a configuration") if folder is not None else {}
    except InputError:
        return {}


def parse_json(text: bytes, file: Path, what: str) -> dict[str, Any]:
    """Parse the JSON object that a file holds; see `read_json`."""
    try:
        content = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} isn't {what} ({error}); download or copy it again.") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} isn't {what} (it isn't an object); download or copy it again.")
    return content


def check_names(names: Iterable[str], file: Path) -> None:
    """Check that tensors have names with which safetensors can hold them.

    Raises:
        InputError: some haven't.
    """
    for name in names:
        if name == "__metadata__" or name != name.encode(errors="ignore").decode():
            raise InputError(
                f"{file}: a tensor can't be called {ascii(name)[:200]}; name it otherwise, and"
                " save it again."
            )


def read_index(file: Path, suffix: str) -> dict[str, str]:
    """Read `weight_map` of an index: tensor → the file beside it that holds it.

    Args:
        file: the index.
        suffix: how the files' names must end.

    Raises:
        InputError: it is malformed, names a file elsewhere or of another kind, or names a file
            that isn't there.
    """
    entries = read_json(file, "an index of weight files").get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise InputError(
            f"{file} isn't an index of weight files (it has no weight_map); download or copy it"
            " again."
        )
    for key, name in entries.items():
        bare = isinstance(name, str) and PurePath(name).name == PureWindowsPath(name).name == name
        if not bare or not name.endswith(suffix):
            raise InputError(
                f"{file} places {key} in {name!r}: only {suffix} files beside the index are read."
                " Don't use this checkpoint unless you trust where it is from."
            )
    missing = sorted({name for name in entries.values() if not is_there(file.parent / name)})
    if missing:
        raise InputError(
            f"{file.parent} lacks {', '.join(missing)}, which {file.name} names; download or copy"
            " the folder again."
        )
    return entries


def check_index(file: Path, entries: dict[str, str], held: dict[str, set[str]]) -> None:
    """Check that every tensor of an index is in the file where the index places it.

    Args:
        file: the index.
        entries: tensor → file name.
        held: file name → the tensors in it.

    Raises:
        InputError: some aren't.
    """
    absent = [key for key, name in entries.items() if key not in held[name]]
    if absent:
        raise InputError(
            f"{file.parent / entries[absent[0]]} doesn't hold {', '.join(sorted(absent)[:5])},"
            f" which {file.name} places there; download or copy the folder again."
        )


def _opened(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); check its rights.") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"{key[:200]!r} is there twice")
        content[key] = value
    return content
