"""One model out of several with different encoders: what all have is merged, the rest is copied.

Modality merging as in OptMerge, arXiv 2505.19892 [C]: models of one language model, tuned with an
encoder each (vision, audio, video), become one that has all encoders. What one model alone has is
copied from it; what several have and the base lacks, or the other way round, is an error.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amm.checkpoints.base import Checkpoint
from amm.checkpoints.donor import CONFIG_FILE, OtherFiles, listed, other_files, same_files
from amm.checkpoints.files import is_there, read_json
from amm.checkpoints.keys import (
    MISSING,
    SEVERAL,
    Difference,
    Matching,
    is_kept,
    parts_of,
    shape_text,
)
from amm.errors import InputError, shown

_CLASS = ("architectures", "auto_map", "model_type")
"""Keys of config.json that say which class loads the model."""

_HARMLESS = ("dtype", "torch_dtype", "transformers_version", "use_cache")
"""Keys of config.json in which models of one language model may differ, beside `_` and so on."""


class UnionCheckpoint:
    """A base under the output's names, with what each expert alone has; see `Checkpoint`.

    Args:
        base: the base.
        sources: tensor of the output → where it is, and its key there.
    """

    def __init__(self, base: Checkpoint, sources: Mapping[str, tuple[Checkpoint, str]]) -> None:
        self.path = base.path
        self.files_folder = base.files_folder
        self._base = base
        self._sources = sources

    def keys(self) -> list[str]:
        return sorted(self._sources)

    def shape(self, key: str) -> tuple[int, ...]:
        checkpoint, name = self._sources[key]
        return checkpoint.shape(name)

    def dtype(self, key: str) -> torch.dtype:
        checkpoint, name = self._sources[key]
        return checkpoint.dtype(name)

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        checkpoint, name = self._sources[key]
        return checkpoint.read(name, rows)

    def files(self) -> list[Path]:
        """The base's alone: the experts' are theirs."""
        return self._base.files()

    def describe(self) -> str:
        return self._base.describe()


def unite(
    base: Checkpoint, experts: Sequence[Checkpoint], found: Matching, donor: Path | None
) -> tuple[Checkpoint, Matching]:
    """The base with what one model alone has, and where its tensors are in the experts.

    Copied tensors have their owner's names. The others have those of the donor, if it is one of the
    models; else the base's, if it has parts of its own; else those on which the owners agree.

    Args:
        base: the base.
        experts: K experts.
        found: their `match`, with `union`.
        donor: the folder that was named as donor of the other files.

    Raises:
        InputError: the owners' names for what all share differ.
    """
    holders: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, extra in enumerate(found.extra, 1):
        for name, key in extra.items():
            holders[name].append((number, key))
    lacks = Counter(d.key for d in found.differences if d.in_expert == MISSING)
    lacks.update(key for carried in found.carried for key in carried)
    related = all(any(own.values()) for own in found.names)
    lone = [key for key, count in lacks.items() if related and count == len(experts)]
    differences = [d for d in found.differences if d.in_expert != MISSING or d.key not in lone]
    differences += [
        Difference(str(expert.path), key, SEVERAL, shape_text(expert, key))
        for held in holders.values()
        for expert, key in ((experts[number - 1], key) for number, key in held)
        if len(held) > 1 and not is_kept(expert, key)
    ]
    if differences:
        return base, replace(found, differences=differences)
    models = (base, *experts)
    copied = {
        found.plain[number - 1][key]: (number, key)
        for (number, key), *others in holders.values()
        if not others
    }
    owners = dict.fromkeys(lone, 0) | {name: number for name, (number, _) in copied.items()}
    shared = _shared_names(models, found, lone, donor, sorted(set(owners.values())))
    sources = {name: (base, key) for key, name in shared.items()}
    sources |= {key: (base, key) for key in lone}
    sources |= {name: (models[number], key) for name, (number, key) in copied.items()}
    notes = [*found.notes, *_notes(models, owners, sources)]
    united = replace(found.renamed(shared), differences=[], notes=notes, owners=owners)
    return UnionCheckpoint(base, sources), united


def _shared_names(
    models: Sequence[Checkpoint],
    found: Matching,
    lone: Collection[str],
    donor: Path | None,
    owners: Sequence[int],
) -> dict[str, str]:
    """The base's key of what it shares → the name in the output; buffers may have none there."""
    shared = [key for key in models[0].keys() if key not in lone]
    named = (n for n, m in enumerate(models) if donor and _is_same(m.files_folder, donor))
    at = next(named, None)
    speakers = owners if at is None else [at]
    if 0 in speakers or not owners:
        return {key: key for key in shared}
    called = [
        {key: plain[name] for key, name in own.items() if name is not None}
        for own, plain in zip(found.names, found.plain, strict=True)
    ]
    first, *others = (called[number - 1] for number in speakers)
    for number, other in zip(speakers[1:], others, strict=True):
        key = next((key for key in first if other.get(key, first[key]) != first[key]), None)
        if key is not None:
            raise InputError(
                f"{models[speakers[0]].path} has {first[key]} where {models[number].path} has"
                f" {other[key]}, and the base has no part of its own whose names would count: set"
                " copy_files_from to the model whose names the output should have, or save all"
                " with one version of the library."
            )
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in sorted(shared, key=found.copies.__contains__):
        name = next((each[key] for each in (first, *others, *called) if key in each), None)
        if name is not None and name not in taken:
            names[key] = name
            taken.add(name)
    return names


def _is_same(folder: Path | None, other: Path) -> bool:
    return folder is not None and folder.resolve() == other.resolve()


def _notes(
    models: Sequence[Checkpoint], owners: Mapping[str, int], names: Mapping[str, Any]
) -> Iterator[str]:
    for number in sorted(set(owners.values())):
        mine = [name for name, owner in owners.items() if owner == number]
        parts = ", ".join(parts_of(mine, names.keys() - mine))
        yield f"{models[number].path}: what it alone has is copied from it as it is: {parts}."


@dataclass(frozen=True)
class UnitedFiles:
    """What a union has beside its weights and the donor's files.

    Attributes:
        config: the united config.json; None where it is the donor's.
        owned: folder of a model → its files that those before it lack.
        warnings: sentences.
    """

    config: bytes | None = None
    owned: dict[Path, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def unite_files(
    donor: Path | None, owners: Sequence[Path], *, named: bool, own: Collection[str]
) -> UnitedFiles:
    """What the models with parts of their own add to the donor's files.

    Args:
        donor: where all other files are from.
        owners: folders of the models with parts of their own; none for a merge without a union.
        named: whether the donor was named: then it says which class the model is. If it isn't one
            of the owners, too, what its config.json says counts where theirs differ.
        own: names that the merge writes files under itself, which aren't taken from the owners.

    Raises:
        InputError: the models' config.json disagree, or can't be read.
    """
    if donor is None or not owners:
        return UnitedFiles()
    others = [folder for folder in owners if not _is_same(folder, donor)]
    united = UnitedFiles(_united_config(donor, others, named, named and len(others) == len(owners)))
    given = dict.fromkeys(other_files(donor).copied, donor)
    for folder in others:
        names = [n for n in other_files(folder).copied if n not in (CONFIG_FILE, *own)]
        new = [name for name in names if name not in given]
        differ = [n for n in names if n in given and not same_files(given[n] / n, folder / n)]
        given |= dict.fromkeys(new, folder)
        united.owned[folder] = new
        if new:
            united.warnings.append(f"copied from {folder}, as {donor} has none: {listed(new)}.")
        if differ:
            united.warnings.append(
                f"{folder}: its {listed(differ)} differ from what the merged model gets from"
                f" {donor}, the donor, or from a model before it; see to what it needs of them."
            )
        united.warnings.extend(OtherFiles(new, []).warnings(folder))
    return united


def _united_config(donor: Path, others: Sequence[Path], named: bool, decides: bool) -> bytes | None:
    """The config.json of all; None where it is the donor's."""
    configs = {
        folder: read_json(folder / CONFIG_FILE, "a model's configuration")
        for folder in (donor, *others)
        if is_there(folder / CONFIG_FILE)
    }
    if not configs:
        return None
    (first, united), *rest = configs.items()
    said = json.dumps(united)
    conflicts: list[str] = []
    for folder, config in rest:
        classes = [{key: each.get(key) for key in _CLASS} for each in (united, config)]
        if classes[0] != classes[1] and not (named and first == donor):
            raise InputError(
                f"{first} and {folder} are of different classes ({shown(classes[0])},"
                f" {shown(classes[1])}): set copy_files_from to the model whose class has the parts"
                " of all, or to a folder of your own whose config.json names such a class."
            )
        theirs = {key: value for key, value in config.items() if key not in _CLASS}
        conflicts += [
            f"  {'.'.join(path)}: {shown(mine)}, in {folder} {shown(other)}"
            for path, mine, other in _add(united, theirs)
            if not (decides and _says(json.loads(said), path))
        ]
    if conflicts:
        raise InputError(
            f"the config.json of {', '.join(map(str, configs))} disagree:\n"
            + "\n".join(conflicts)
            + "\nGive models of one language model; or set copy_files_from to a folder of your own"
            " whose config.json says what is right for all."
        )
    if json.dumps(united) == said and first == donor:
        return None
    return json.dumps(united, indent=2, ensure_ascii=False).encode() + b"\n"


def _add(
    one: dict[str, Any], other: Mapping[str, Any], at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Add to a configuration what another says beside it.

    Yields:
        Where the two disagree: keys, and both values.
    """
    for key, value in other.items():
        mine, path = one.get(key), (*at, key)
        if isinstance(mine, dict) and isinstance(value, dict):
            yield from _add(mine, value, path)
        elif key not in one or (mine is None and isinstance(value, dict)):
            one[key] = value
        elif mine != value and not (value is None and isinstance(mine, dict)):
            if key not in _HARMLESS and not key.startswith("_"):
                yield path, mine, value


def _says(config: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(config, dict) or key not in config:
            return False
        config = config[key]
    return True
