"""One model out of several with different encoders: what all have is merged, the rest is copied.

Modality merging as in OptMerge, arXiv 2505.19892 [C]: models of one language model, each tuned with
an encoder (vision, audio, video), become one that has all encoders.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amm.checkpoints.base import Checkpoint, GatheredCheckpoint
from amm.checkpoints.donor import CONFIG_FILE, OtherFiles, other_files, same_files
from amm.checkpoints.files import is_there, read_json
from amm.checkpoints.keys import (
    MISSING,
    SEVERAL,
    Difference,
    Matching,
    is_kept,
    match,
    parts_of,
    shape_text,
)
from amm.errors import InputError, shown
from amm.layers import Layout
from amm.text import listed

_CLASS = ("architectures", "auto_map", "model_type")
"""Keys of config.json that say which class loads the model."""

_HARMLESS = ("dtype", "torch_dtype", "transformers_version", "use_cache")
"""Keys of config.json in which models of one language model may differ; so are those with `_`."""

_SHOWN = 20


def unite(
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    partial: Sequence[bool],
    donor: Path | None,
    *,
    sampled: bool = False,
) -> tuple[Checkpoint, Matching]:
    """The base with what one model alone has, and where its tensors are in the experts.

    Args:
        base: the base.
        experts: K experts.
        partial: for each, whether it may lack tensors.
        donor: the folder that was named as donor of the other files.
        sampled: see `match`.

    Returns:
        The base under the output's names: what one model alone has under its owner's; the rest
        under the donor's, where it is one of the models, or the base's, where that has parts of its
        own, or those on which the owners agree. And its `Matching`, or what doesn't fit.

    Raises:
        InputError: see `match`, or the owners' names for what all share differ.
    """
    models = (base, *experts)
    found = match(base, experts, partial=partial, union=True, sampled=sampled)
    holders: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, extra in enumerate(found.extra, 1):
        for name, key in extra.items():
            holders[name].append((number, key))
    lacks = Counter(d.key for d in found.differences if d.in_expert == MISSING)
    lacks.update(key for carried in found.carried for key in carried)
    related = all(any(own.values()) for own in found.names)
    lone = {key for key, count in lacks.items() if related and count == len(experts)}
    differences = [d for d in found.differences if d.in_expert != MISSING or d.key not in lone]
    differences += [
        Difference(str(models[number].path), key, SEVERAL, shape_text(models[number], key))
        for held in holders.values()
        for number, key in held
        if len(held) > 1 and not is_kept(models[number], key)
    ]
    alone = [held[0] for held in holders.values() if len(held) == 1]
    if differences or not (alone or lone):
        return base, replace(found, differences=differences)
    copied = {key: (0, key) for key in lone} | {
        found.plain[n - 1][key]: (n, key) for n, key in alone
    }
    owners = {name: number for name, (number, _) in copied.items()}
    shared = _shared_names(models, found, lone, donor, sorted(set(owners.values())))
    sources = {name: (base, key) for key, name in shared.items()}
    sources |= {name: (models[number], key) for name, (number, key) in copied.items()}
    notes = list(found.notes)
    for number in sorted(set(owners.values())):
        own = [name for name, owner in owners.items() if owner == number]
        parts = ", ".join(parts_of(own, sources.keys() - own))
        notes.append(f"{models[number].path}: what it alone has is copied from it: {parts}.")
    united = replace(_renamed(found, shared), differences=[], notes=notes, owners=owners)
    return GatheredCheckpoint(base, sources), united


def _renamed(found: Matching, names: Mapping[str, str]) -> Matching:
    """The same for the base's tensors that have a name in the output, under that name."""

    def each(values: Mapping[str, Any]) -> dict[str, Any]:
        return {names[key]: value for key, value in values.items() if key in names}

    known = found.layout
    sets = (known.transposed, known.embeddings, known.vocabulary)
    return replace(
        found,
        layout=Layout(each(known.matrices), *(frozenset(each(dict.fromkeys(s))) for s in sets)),
        copies={copy: names[first] for copy, first in each(found.copies).items()},
        names=[each(own) for own in found.names],
    )


def _shared_names(
    models: Sequence[Checkpoint],
    found: Matching,
    lone: Collection[str],
    donor: Path | None,
    owners: Sequence[int],
) -> dict[str, str]:
    """The base's key of what it shares → the name in the output; buffers may have none there."""
    shared = [key for key in models[0].keys() if key not in lone]
    named = [n for n, model in enumerate(models) if donor and _same(model.files_folder, donor)]
    donors = named[:1] or owners
    if 0 in donors:
        return {key: key for key in shared}
    called = [
        {key: plain[name] for key, name in own.items() if name is not None}
        for own, plain in zip(found.names, found.plain, strict=True)
    ]
    first, *others = (called[number - 1] for number in donors)
    for number, other in zip(donors[1:], others, strict=True):
        key = next((key for key in first if other.get(key, first[key]) != first[key]), None)
        if key is not None:
            raise InputError(
                f"{models[donors[0]].path} has {first[key]} where {models[number].path} has"
                f" {other[key]}; set copy_files_from to the model whose names the output should"
                " have, or save both with one version of the library."
            )
    names: dict[str, str] = {}
    for key in sorted(shared, key=lambda key: key not in found.copies):
        name = next((each[key] for each in (first, *others, *called) if key in each), None)
        if name is not None:
            names[name] = key  # of copies that are one there, the first
    return {key: name for name, key in names.items()}


def _same(folder: Path | None, other: Path) -> bool:
    return folder is not None and folder.resolve() == other.resolve()


@dataclass(frozen=True)
class UnitedFiles:
    """What a union has beside its weights and the donor's files.

    Attributes:
        config: the united config.json; None where it is the donor's.
        owned: folder of a model → its files that the donor and the models before it lack.
        warnings: sentences.
    """

    config: bytes | None = None
    owned: dict[Path, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def unite_files(
    donor: Path | None, folders: Mapping[Path, bool], *, named: bool, own: Collection[str]
) -> UnitedFiles:
    """What the models with parts of their own add to the donor's files.

    Args:
        donor: where all other files are from.
        folders: folders of the models → whether they have parts of their own.
        named: whether the donor was named. It says then which class the model is of; and if it is
            none of the models, its config.json is the output's.
        own: names that the merge writes files under itself, which are taken from the donor alone.

    Raises:
        InputError: the models' config.json disagree, or can't be read.
    """
    others = [f for f, owner in folders.items() if owner and donor and not _same(f, donor)]
    if donor is None or not others:
        return UnitedFiles()
    as_it_is = named and not any(_same(folder, donor) for folder in folders)
    try:
        united = UnitedFiles(None if as_it_is else _united_config((donor, *others), named))
    except RecursionError:
        raise InputError(
            f"the config.json of {donor} or {listed([*map(str, others)])} is nested too deeply;"
            " copy it again."
        ) from None
    given = dict.fromkeys(other_files(donor).copied, donor)
    for folder in others:
        files = [n for n in other_files(folder).copied if n not in (CONFIG_FILE, *own)]
        new = [name for name in files if name not in given]
        differ = [n for n in files if n in given and not same_files(given[n] / n, folder / n)]
        given |= dict.fromkeys(new, folder)
        united.owned[folder] = new
        if new:
            united.warnings.append(f"copied from {folder}, as {donor} has none: {listed(new)}.")
        if differ:
            united.warnings.append(
                f"{folder}: its {listed(differ)} differ from those of the same name that the output"
                f" gets, of {donor} or a model before it; check that nothing of them is missing."
            )
        united.warnings.extend(OtherFiles(new, []).warnings(folder))
    return united


def _united_config(folders: Sequence[Path], named: bool) -> bytes | None:
    """The config.json of all; None where it is the first's, the donor's."""
    files = [folder / CONFIG_FILE for folder in folders if is_there(folder / CONFIG_FILE)]
    if not files:
        return None
    united, *others = (read_json(file, "a model's configuration") for file in files)
    said, conflicts, first = json.dumps(united), [], files[0].parent == folders[0]
    for file, config in zip(files[1:], others, strict=True):
        one, other = ({key: each.get(key) for key in _CLASS} for each in (united, config))
        if one != other and not (named and first):
            raise InputError(
                f"{files[0]} and {file} are of different classes ({shown(one)}, {shown(other)}):"
                " set copy_files_from to the model whose class has the parts of all, or to a folder"
                " with a config.json of your own for such a class."
            )
        theirs = {key: value for key, value in config.items() if key not in _CLASS}
        conflicts += [f"  {line}, in {file}" for line in _add(united, theirs)]
    if conflicts:
        raise InputError(
            "the models' config.json disagree on what can have one value only:\n"
            + "\n".join(conflicts[:_SHOWN])
            + "\nGive models of one language model, or set copy_files_from to a folder with a"
            " config.json of your own, which is taken as it is."
        )
    if json.dumps(united) == said and first:
        return None
    return json.dumps(united, indent=2, ensure_ascii=False).encode() + b"\n"


def _add(one: dict[str, Any], other: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Add to a configuration what another has beside it; yields where the two disagree."""
    for key, value in other.items():
        mine = one.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            yield from _add(mine, value, f"{at}{key}.")
        elif key not in one or (mine is None and isinstance(value, dict)):
            one[key] = value
        elif mine != value and not (value is None and isinstance(mine, dict)):
            if key not in _HARMLESS and not key.startswith("_"):
                yield f"{at}{key}: {shown(mine)} and {shown(value)}"
