"""Models of the Hugging Face Hub, by `org/name` or `org/name@revision`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from amm.checkpoints.donor import OTHER_FORMATS, TRAINING_FILES
from amm.errors import InputError

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")

_CACHED = re.compile(r".*/models--(?P<org>.+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[^/]+)/?")
_NO_NAME = re.compile(
    r"base|model|merged?|final|out(put)?|hf|huggingface|actor|last|latest|best|\d+"
    r"|[a-z_]*(checkpoint|ckpt|step|epoch|iter)s?[-_]?\d*"
)
"""Names of folders that say nothing of the model in them."""
_NO_ORGANISATION = re.compile(
    r"models?|hf_?models|checkpoints?|ckpts?|data|runs?|outputs?|weights|pretrained|saves?|llms?"
)
"""First parts of relative paths that look like an id of the Hub."""
_TRAINED_ON = re.compile(r"(-unsloth)?-bnb-4bit$")
"""What unsloth appends to the names of the copies that it trains on."""


def hub_id(text: str) -> re.Match[str] | None:
    """The `repo` and `revision` of an id of the Hub; None of all else, such as what exists here."""
    return None if os.path.exists(text) else _HUB_ID.fullmatch(text)


@dataclass(frozen=True)
class _Name:
    """What the name of a model says: an id of the Hub, or a path on any machine.

    Attributes:
        parts: the last part of it that names a model, and what follows.
        organisation: who published it, of an id.
        revision: of an id.
    """

    parts: tuple[str, ...]
    organisation: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> _Name:
        text = text.replace("\\", "/")
        path = re.sub(r"@[^/]*$", "", text)
        found = _CACHED.fullmatch(text)
        if found is not None:
            return cls(_telling((found["name"],)), found["org"].lower(), found["revision"])
        found = hub_id(text)
        organisation, _, name = ("" if found is None else found["repo"]).partition("/")
        if found is None or _NO_ORGANISATION.fullmatch(organisation.lower()):
            return cls(_telling(tuple(part for part in path.split("/") if part.strip("."))))
        return cls(_telling((organisation, name)), organisation.lower(), found["revision"])


def _telling(parts: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(_TRAINED_ON.sub("", part.lower()) for part in parts)
    first = next((i for i in reversed(range(len(parts))) if not _NO_NAME.fullmatch(parts[i])), 0)
    return parts[first:]


def _ends_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    common = min(len(one), len(other))
    return common > 0 and one[-common:] == other[-common:]


def may_be_the_same(said: str, given: str | Path, folder: Path) -> bool:
    """Whether a model that a file names may be the one that was given.

    Names of folders differ from machine to machine: what counts is the last part that tells one
    model from another, and of two ids of the Hub the organisation and revision too.

    Args:
        said: `org/name` or `org/name@revision`, or a path that need not exist here.
        given: the same, as the user wrote it.
        folder: where that is.
    """
    path = os.path.expanduser(re.sub(r"@[^/]*$", "", said))
    if os.path.exists(path) and os.path.samefile(path, folder):
        return True
    model = _Name.of(said)
    default = _Name.of(str(given))
    names = (replace(default, revision=default.revision or "main"), _Name.of(str(folder.resolve())))
    return any(
        _ends_alike(model.parts, name.parts)
        and len({model.organisation, name.organisation} - {None, "unsloth"}) < 2
        and (
            model.revision is None
            or name.organisation is None
            or (name.revision or "").startswith(model.revision)
        )
        for name in names
    )


def local_folder(path: str | Path) -> Path:
    """The folder of a path, or of a Hub model, which is downloaded if the Hub's cache lacks it.

    A path that exists is never looked up on the Hub. From the Hub come all files that belong to the
    model, its own code too, which nothing here runs; not its weights in other formats than
    safetensors.

    Args:
        path: a path, `org/name`, or `org/name@revision` (a branch, tag or commit).

    Raises:
        InputError: neither the path nor such a model is there, or it can't be downloaded.
    """
    try:
        folder = Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{path}: no home folder is known that its ~ stands for; write the path out."
        ) from None
    named = hub_id(str(path))
    if named is None:
        return folder
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError:
        raise InputError(
            f"{path} doesn't exist here; check the path. If it is a model of the Hugging Face Hub,"
            " `pip install huggingface_hub` first."
        ) from None
    try:
        return Path(
            snapshot_download(
                named["repo"],
                revision=named["revision"],
                ignore_patterns=[*OTHER_FORMATS, *TRAINING_FILES],
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )
    except Exception as error:  # a download can fail in any way
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"{path} doesn't exist here, and can't be had from the Hugging Face Hub"
            f" ({type(error).__name__}: {reason}); check the path or name, the access to the Hub"
            " (HF_TOKEN, HF_HUB_OFFLINE), or download it and give its folder."
        ) from None
