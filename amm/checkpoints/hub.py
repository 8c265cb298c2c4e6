"""Models of the Hugging Face Hub, by `org/name` or `org/name@revision`."""

from __future__ import annotations

import re
from pathlib import Path

from amm.checkpoints.donor import OTHER_FORMATS, TRAINING_FILES
from amm.errors import InputError

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


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
    folder = Path(path).expanduser()
    named = _HUB_ID.fullmatch(str(path))
    if folder.exists() or named is None:
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
