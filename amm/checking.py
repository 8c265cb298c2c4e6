"""Whether a merged model is whole: against its base, its donor, and the libraries that load it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm.checkpoints import Checkpoint, open_checkpoint
from amm.checkpoints.base import dtype_name
from amm.checkpoints.donor import (
    CONFIG_FILE,
    dtypes_of,
    holds,
    main_dtype,
    same_but_dtypes,
    same_files,
)
from amm.checkpoints.files import is_there, read_json, read_small
from amm.checkpoints.hf import INDEX_FILE
from amm.checkpoints.keys import (
    BLOCK_ENTRIES,
    EMBEDDING,
    HEAD,
    by_common_name,
    is_tied,
    row_blocks,
    same_tensor,
)
from amm.config import UNION, MergeConfig
from amm.engines.job import is_finite
from amm.engines.pages import MappedPages
from amm.errors import InputError, shown
from amm.loads import try_loading
from amm.models import open_models
from amm.report import PROVENANCE_FILE
from amm.settings import validated
from amm.text import listed

SHOWN = 5

_MAPPED = 2**30
"""Bytes of the model's mapped pages that are kept while all entries are looked at."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is as it should be; None where it couldn't be looked at.
        detail: in words, what was found.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class CheckResult:
    """What `check` found.

    Attributes:
        output: the folder.
        checks: one for each thing that was looked at.
    """

    output: Path
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what couldn't be looked at isn't counted."""
        return all(check.ok is not False for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "ok": self.ok,
            "output": str(self.output),
            "checks": [asdict(check) for check in self.checks],
        }


def check(output: str | Path, base: str | Path | None = None) -> CheckResult:
    """Look a merged model over.

    Args:
        output: its folder.
        base: the model that its names, shapes and dtypes must equal; by default the one that its
            `provenance.json` names, if it is still there.

    Returns:
        The checks. Files that can't be read are among what failed, not raised.

    Raises:
        InputError: a base was named and can't be read.
    """
    folder = Path(output)
    checks, content = [], {}
    for name in (CONFIG_FILE, PROVENANCE_FILE):
        try:
            content[name] = read_json(folder / name, "JSON") if is_there(folder / name) else {}
        except InputError as error:
            checks.append(Check(name, False, str(error)))
    config, provenance = content.get(CONFIG_FILE, {}), content.get(PROVENANCE_FILE, {})
    try:
        merged = open_checkpoint(folder)
        checks.append(Check("weights", True, merged.describe()))
    except InputError as error:
        return CheckResult(folder, [*checks, Check("weights", False, str(error))])
    checks.append(_index(folder, merged))
    checks += _against_base(merged, base, provenance)
    checks += [
        _dtype_said(config, merged),
        _finite(merged),
        _tied(config, merged),
        _copied(folder, provenance),
    ]
    sound = all(found.ok is not False for found in checks)
    for library in ("transformers", "vllm"):
        tried = try_loading(library, folder) if sound else (None, "not tried: mend the above first")
        checks.append(Check(f"loads in {library}", *tried))
    return CheckResult(folder, checks)


def _index(folder: Path, merged: Checkpoint) -> Check:
    files = {file.name for file in merged.files() if file.suffix == ".safetensors"}
    if not is_there(folder / INDEX_FILE):
        return Check("index", True, "one file, no index needed")
    from safetensors import safe_open

    try:
        index = read_json(folder / INDEX_FILE, "an index of weight files")
    except InputError as error:
        return Check("index", False, str(error))
    weight_map, metadata = (_mapping(index.get(key)) for key in ("weight_map", "metadata"))
    wrong = []
    for name in sorted(files):
        with safe_open(folder / name, framework="pt") as file:
            stored = set(file.keys())
        placed = {key for key, where in weight_map.items() if where == name}
        wrong += [f"{key} of {name} isn't in the index" for key in sorted(stored - placed)]
    size = sum(
        torch.Size(merged.shape(key)).numel() * merged.dtype(key).itemsize for key in merged.keys()
    )
    said = metadata.get("total_size")
    if said != size:
        wrong.append(f"total_size is {shown(said)}, the tensors have {size} bytes")
    return _result("index", wrong, f"{len(files)} files, {len(weight_map)} tensors")


def _against_base(
    merged: Checkpoint, base: str | Path | None, provenance: dict[str, Any]
) -> Iterator[Check]:
    names = ("names", "shapes", "dtypes")
    config = _mapping(provenance.get("config"))
    path = base if base is not None else config.get("base")
    if not isinstance(path, str | Path):
        yield from _left_out(names, "no base is known; name one: --base BASE")
        return
    if base is None and not os.path.isdir(path):  # what a file says is never looked up online
        yield from _left_out(names, f"the base {path} isn't a folder here; name it: --base BASE")
        return
    try:
        original = _original(path, config)
    except InputError as error:
        if base is not None:
            raise
        yield from _left_out(names, f"the base can't be read: {error}")
        return
    mine, theirs = set(merged.keys()), set(original.keys())
    wrong = [f"{key} is missing" for key in sorted(theirs - mine)]
    wrong += [f"{key} isn't in the base" for key in sorted(mine - theirs)]
    union = " and its experts" if config.get("parts") == UNION else ""
    yield _result("names", wrong, f"the {len(theirs)} of {path}{union}")
    both = sorted(mine & theirs)
    wrong = [
        f"{key} is {merged.shape(key)}, in the base {original.shape(key)}"
        for key in both
        if merged.shape(key) != original.shape(key)
    ]
    yield _result("shapes", wrong, "as in the base")
    saved = config.get("save_dtype")
    saved = saved if isinstance(saved, str) else None
    wrong = [
        f"{key} is {dtype_name(merged.dtype(key))}, wanted {wanted}"
        for key in both
        if dtype_name(merged.dtype(key)) != (wanted := _wanted(original.dtype(key), saved))
    ]
    yield _result("dtypes", wrong, f"save_dtype {saved}" if saved else "as in the base")


def _original(base: str | Path, config: dict[str, Any]) -> Checkpoint:
    """The base that a merge had; for a union with the parts that experts alone have.

    Raises:
        InputError: a model isn't a folder here, or can't be read.
    """
    if config.get("parts") != UNION:
        return open_checkpoint(base)
    keys = ("experts", "partial_experts", "parts", "copy_files_from")
    values = {key: config[key] for key in keys if key in config} | {"base": base, "output": "."}
    merge = validated(MergeConfig, values, PROVENANCE_FILE)
    for path in (base, *(path for e in merge.experts for path in (e.path, e.base) if path)):
        if not os.path.isdir(path):  # what a file says is never looked up online
            raise InputError(f"{path} isn't a folder here; copy it there, or check elsewhere.")
    return open_models(merge).base


def _dtype_said(config: dict[str, Any], merged: Checkpoint) -> Check:
    """Whether loaders that go by config.json keep what is stored."""
    said = dtypes_of(config)
    stored = main_dtype((merged.dtype(k), math.prod(merged.shape(k))) for k in merged.keys())
    wrong = [
        f"{CONFIG_FILE} has {key} {dtype}, the weights are {dtype_name(stored)}: loading rounds"
        " them"
        for key, dtype in sorted(said.items())
        if stored is not None and not holds(dtype, stored)
    ]
    words = " and ".join(sorted(set(said.values()))) or "no dtype"
    return _result("dtype", wrong, f"{CONFIG_FILE} has {words}")


def _wanted(stored: torch.dtype, saved: str | None) -> str:
    floating = stored.is_floating_point and stored.itemsize > 1
    return saved if saved and floating else dtype_name(stored)


def _finite(merged: Checkpoint) -> Check:
    wrong, pages = [], MappedPages(merged.files(), _MAPPED)
    for key in merged.keys():
        for rows in row_blocks(merged.shape(key)):
            block = merged.read(key, rows)
            if block.is_floating_point() and not _all_finite(block, pages):
                wrong.append(f"{key} has NaN or infinite entries")
                break
    return _result("finite", wrong, "all entries")


def _all_finite(block: Tensor, pages: MappedPages) -> bool:
    """In pieces, as rows may be long."""
    for piece in block.flatten().split(BLOCK_ENTRIES):
        pages.count(piece.nbytes)
        if not is_finite(piece):
            return False
    return True


def _tied(config: dict[str, Any], merged: Checkpoint) -> Check:
    keys = by_common_name(merged)
    head, embedding = keys.get(HEAD), keys.get(EMBEDDING)
    if not is_tied(config):
        return Check("head", True, "of its own" if head else "config.json ties none")
    if head is None or embedding is None:
        return Check("head", True, "tied to the embedding, stored once")
    wrong = []
    if not same_tensor(merged, head, embedding):
        wrong = [f"config.json ties {head} to {embedding}, and they differ"]
    return _result("head", wrong, "stored beside the embedding, equal to it")


def _copied(folder: Path, provenance: dict[str, Any]) -> Check:
    name = "other files"
    files = _mapping(provenance.get("copied_files"))
    donor = provenance.get("donor")
    if not files or not isinstance(donor, str):
        return Check(name, None, f"{PROVENANCE_FILE} doesn't say where they are from")
    if not all(map(_is_inside, (*files, *files.values()))):
        return Check(name, False, f"{PROVENANCE_FILE} names files outside the two folders")
    if not os.path.isdir(donor):
        return Check(name, None, f"the donor {donor} isn't there")
    dtype = provenance.get("config_dtype")
    changed = {CONFIG_FILE} if dtype else set()
    wrong = [
        f"{copy} isn't {original} of the donor"
        for original, copy in sorted(files.items())
        if not _same(Path(donor, original), folder / copy, but_dtypes=original in changed)
    ]
    but = f", but for {dtype} in {CONFIG_FILE}" if dtype else ""
    return _result(name, wrong, f"{len(files)}, byte for byte those of {donor}{but}")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_inside(name: Any) -> bool:
    """Whether it is the path of a file below a folder, as far as the name tells."""
    if not isinstance(name, str) or "\0" in name:
        return False
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _same(one: Path, other: Path, *, but_dtypes: bool) -> bool:
    if but_dtypes and one.is_file() and other.is_file():
        return same_but_dtypes(*(read_small(file, CONFIG_FILE) for file in (one, other)))
    return same_files(one, other)


def _left_out(names: Sequence[str], why: str) -> Iterator[Check]:
    return (Check(name, None, why) for name in names)


def _result(name: str, wrong: list[str], right: str) -> Check:
    return Check(name, False, listed(wrong, SHOWN, "; ")) if wrong else Check(name, True, right)
