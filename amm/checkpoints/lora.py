"""Reader of LoRA adapters: the model that they make of their base, one tensor at a time.

    W = W_0 + s · B A            s = alpha / r, or alpha / √r with rank-stabilised LoRA
    W = m · V / ‖V‖ per row,     V = W_0 + s · B A, with DoRA

as PEFT's `merge_and_unload` has it, but computed in float32 when a tensor is read and never rounded
to the base's dtype. Adapters are PEFT folders, EasyR1's `lora_adapter` folder, or tensors among the
FSDP shards of verl and EasyR1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from amm.checkpoints.archive import TorchFile
from amm.checkpoints.base import Checkpoint, GatheredCheckpoint, Tensors
from amm.checkpoints.files import is_there, read_json
from amm.checkpoints.fsdp import FsdpCheckpoint, find_rank_folder
from amm.checkpoints.hf import SafetensorsFile
from amm.checkpoints.keys import HEAD, by_common_name, common_name, same_tensor
from amm.errors import InputError, shown

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES: dict[str, type[SafetensorsFile] | type[TorchFile]] = {
    "adapter_model.safetensors": SafetensorsFile,
    "adapter_model.bin": TorchFile,
}
SHARDS_META_FILE = "lora_train_meta.json"
"""Rank and alpha beside verl's shards."""
SHARDS_FOLDER = "lora_adapter"
"""PEFT's folder beside EasyR1's shards."""

_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(\.default)?(\.(?P<kind>weight|bias))?"
)
_WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save(\.default)?)(?=\.)")
_ADAPTER_KEY = re.compile(r"\.(lora_\w+|modules_to_save|token_adapter)(\.|$)")
_REPEATED_GROUP = re.compile(r"\)[*+{?]")
_ATOM = re.compile(r"\[\^?[\w.-]+\]|\\[.dws-]")
_GROUP = re.compile(r"\((?:\?:)?([\w.^$|*+?{},-]*)\)")
_SIMPLE = re.compile(r"[\w.^$|*+?{},-]*")
_PATTERNS_LIMIT = 200_000
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

_NO_WEIGHTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
_NOT_READ = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
"""Keys of PEFT's configuration under which an adapter isn't W_0 + s · B A."""


_Alpha = Annotated[float, Field(ge=1e-30, le=1e30)]


class _Config(BaseModel):
    """What is needed of PEFT's configuration."""

    r: int = Field(gt=0)
    lora_alpha: _Alpha
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, _Alpha] | None = None
    init_lora_weights: bool | str | None = True
    base_model_name_or_path: str | None = None
    revision: str | None = None

    @cached_property
    def _alphas(self) -> list[tuple[re.Pattern[str], float]]:
        patterns = (self.alpha_pattern or {}).items()
        return [(re.compile(rf"(.*\.)?({pattern})$"), alpha) for pattern, alpha in patterns]

    def scaling(self, module: str, rank: int) -> float:
        """s of a module; the first pattern that fits the end of its name counts, as in PEFT."""
        fitting = (alpha for pattern, alpha in self._alphas if pattern.match(module))
        alpha = next(fitting, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class _Product:
    """A product that is added to a weight, s · B A.

    Attributes:
        left, right: the adapter's B and A.
        transposed: (B A)ᵀ is added, as for embeddings and transformers' Conv1D.
        magnitude: DoRA's m.
        scaling: s.
    """

    left: str
    right: str
    transposed: bool
    magnitude: str | None
    scaling: float


@dataclass
class _Change:
    """How a tensor of the base changes.

    Attributes:
        replacement: the adapter's tensor that stands for the base's.
        product: what is added to a weight.
        bias: what is added to a bias: a bias of B, and s.
    """

    replacement: str | None = None
    product: _Product | None = None
    bias: tuple[str, float] | None = None


class LoraCheckpoint:
    """A base with an adapter merged into it; see `amm.checkpoints.base.Checkpoint`.

    It has the base's keys and shapes. Tensors that the adapter changes are float32.

    Args:
        path: the adapter's folder.
        adapter: where the adapter's tensors are.
        names: their names in PEFT.
        config: PEFT's configuration.
        files: the files of both.
        base: the model that the adapter was trained on.

    Raises:
        InputError: a kind of adapter that isn't read, or tensors that don't fit the base.
    """

    def __init__(
        self,
        path: Path,
        adapter: Tensors,
        names: Sequence[str],
        config: _Config,
        files: Sequence[Path],
        base: Checkpoint,
    ) -> None:
        self.path = path
        self.files_folder = base.files_folder
        self._adapter = adapter
        self._base = base
        self._config = config
        self._files = [*files, *base.files()]
        self._changes = self._match(names, by_common_name(base))
        if not any(map(self._moves, self._changes.values())):
            raise InputError(
                f"{path}: the adapter changes nothing, as all its B are zero: it wasn't trained, or"
                " not saved as it was trained. Give another checkpoint of that run."
            )

    @property
    def trained_on(self) -> str | None:
        """The model, `org/name` or a path, that the adapter says it was trained on, `@revision`
        after it if it says one; None if it doesn't say, or where FSDP shards hold that too."""
        if isinstance(self._base, GatheredCheckpoint):
            return None
        name, revision = self._config.base_model_name_or_path, self._config.revision
        return f"{name}@{revision}" if name and revision else name or None

    def keys(self) -> list[str]:
        return self._base.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._base.shape(key)

    def dtype(self, key: str) -> torch.dtype:
        change = self._changes.get(key)
        if change is None:
            return self._base.dtype(key)
        if change.replacement is not None and change.product is None and change.bias is None:
            return self._adapter.dtype(change.replacement)
        return torch.promote_types(self._base.dtype(key), torch.float32)

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        change = self._changes.get(key)
        if change is None:
            return self._base.read(key, rows)
        rows_read = slice(None) if rows is None else rows
        if change.replacement is None:
            start = self._base.read(key, rows)
        else:
            start = self._adapter.read(change.replacement)
            start = start if rows is None else start[rows]
        if change.bias is not None:
            name, scaling = change.bias
            added = self._adapter.read(name)[rows_read].float()
            return start.to(self.dtype(key), copy=True).add_(added, alpha=scaling)
        product = change.product
        if product is None:
            return start
        weight = start.to(self.dtype(key), copy=True)
        left, right = self._adapter.read(product.left), self._adapter.read(product.right)
        if product.transposed:
            left, right = right.T, left.T
        step = left.flatten(1)[rows_read].float() @ right.flatten(1).float()
        weight.add_(step.view_as(weight), alpha=product.scaling)
        if product.magnitude is not None:
            magnitude = self._adapter.read(product.magnitude).flatten()[rows_read].float()
            weight.mul_((magnitude / torch.linalg.vector_norm(weight, dim=1))[:, None])
        return weight

    def files(self) -> list[Path]:
        return list(dict.fromkeys(self._files))

    def describe(self) -> str:
        config = self._config
        kind = "DoRA" if config.use_dora else "LoRA"
        products = sum(change.product is not None for change in self._changes.values())
        return (
            f"{kind} adapter, r = {config.r}, alpha = {config.lora_alpha:g}, {products} weights"
            f" adapted, {len(self._changes) - products} other tensors of its own,"
            f" on: {self._base.describe()}"
        )

    def _moves(self, change: _Change) -> bool:
        product = change.product
        if product is None or product.magnitude is not None or change.replacement is not None:
            return True
        return bool(self._adapter.read(product.left).any())

    def _match(self, names: Sequence[str], base_keys: dict[str, str]) -> dict[str, _Change]:
        factors: dict[str, dict[str, str]] = {}
        changes: dict[str, _Change] = {}
        unmatched: list[str] = []
        for name in names:
            factor = _FACTOR.fullmatch(name.removeprefix(_PREFIX))
            if factor is not None:
                part = factor["part"] + (".bias" if factor["kind"] == "bias" else "")
                factors.setdefault(factor["module"], {})[part] = name
                continue
            key = base_keys.get(common_name(_plain_name(name)))
            if key is None or self._base.shape(key) != self._adapter.shape(name):
                unmatched.append(name)
            else:
                changes.setdefault(key, _Change()).replacement = name
        saved = [key for change in changes.values() if (key := change.replacement) is not None]
        unmatched = [  # PEFT saves a tied head beside the embedding
            name
            for name in unmatched
            if not any(same_tensor(self._adapter, name, s) for s in saved)
        ]
        for module, parts in factors.items():
            stored = common_name(f"{module}.weight") in base_keys
            if stored or not self._repeats_embedding(parts, factors.values()):
                self._add_product(module, parts, base_keys, changes, unmatched)
        if unmatched:
            some = "\n".join(
                f"  {name}  {'×'.join(map(str, self._adapter.shape(name)))}"
                for name in sorted(unmatched)[:20]
            )
            raise InputError(
                f"{self.path}: {len(unmatched)} tensors of the adapter don't fit {self._base.path}"
                f" (there is no such tensor, or it has another shape). {self._advice(unmatched)}\n"
                f"{some}"
            )
        return changes

    def _repeats_embedding(self, parts: dict[str, str], factors: Iterable[dict[str, str]]) -> bool:
        """Whether a head's factors are the embedding's, turned: PEFT's `ensure_weight_tying`."""
        return parts.keys() == {"A", "B"} and any(
            torch.equal(self._adapter.read(parts["A"]).T, self._adapter.read(other["embedding_B"]))
            and torch.equal(
                self._adapter.read(parts["B"]).T, self._adapter.read(other["embedding_A"])
            )
            for other in factors
            if other.keys() == {"embedding_A", "embedding_B"}
        )

    def _advice(self, unmatched: Sequence[str]) -> str:
        head = HEAD.removesuffix("weight")
        if all(head in name for name in unmatched) and HEAD not in by_common_name(self._base):
            return (
                "The base ties its head to the embedding, and the adapter makes the two differ:"
                " train without the head among its modules, or on a base with a head of its own."
            )
        return (
            "Give the base that the adapter was trained on, or merge the adapter with PEFT and"
            " give the result."
        )

    def _add_product(
        self,
        module: str,
        parts: dict[str, str],
        base_keys: dict[str, str],
        changes: dict[str, _Change],
        unmatched: list[str],
    ) -> None:
        key = base_keys.get(common_name(f"{module}.weight"))
        embedded = "embedding_A" in parts
        a, b = (parts.get(f"embedding_{side}" if embedded else side) for side in "AB")
        magnitude = parts.get("magnitude_vector")
        if (
            key is None
            or a is None
            or b is None
            or (magnitude is not None) != self._config.use_dora
            or (transposed := self._transposed(self._base.shape(key), a, b, embedded)) is None
        ):
            unmatched += parts.values()
            return
        if magnitude is not None and (transposed or len(self._base.shape(key)) != 2):
            raise InputError(
                f"{self.path}: DoRA on {module} (an embedding, a convolution or a Conv1D layer)"
                " isn't read; merge the adapter with PEFT and give the result."
            )
        rank = self._adapter.shape(a)[0]
        if rank not in {self._config.r, *(self._config.rank_pattern or {}).values()}:
            raise InputError(
                f"{self.path}: {a} has rank {rank}, which {CONFIG_FILE} doesn't have (r ="
                f" {self._config.r}); copy both from one run."
            )
        scaling = self._config.scaling(module, rank)
        product = _Product(b, a, transposed, magnitude, scaling)
        changes.setdefault(key, _Change()).product = product
        if "B.bias" in parts:
            bias = base_keys.get(common_name(f"{module}.bias"))
            if bias is None or self._base.shape(bias) != self._adapter.shape(parts["B.bias"]):
                unmatched.append(parts["B.bias"])
            else:
                changes.setdefault(bias, _Change()).bias = parts["B.bias"], scaling

    def _transposed(self, shape: tuple[int, ...], a: str, b: str, embedded: bool) -> bool | None:
        """Whether (B A)ᵀ is meant and not B A; None if neither has the weight's shape."""
        shape_a, shape_b = self._adapter.shape(a), self._adapter.shape(b)
        if not (len(shape_a) == len(shape_b) == len(shape) >= 2 and shape_b[1] == shape_a[0]):
            return None
        if math.prod(shape_b[2:]) != 1:
            return None
        plain = (shape_b[0], *shape_a[1:]) == shape
        turned = len(shape) == 2 and (shape_a[1], shape_b[0]) == shape
        if embedded:
            return True if turned else None
        if plain and turned:
            return self._config.fan_in_fan_out
        return turned if plain or turned else None


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return is_there(folder / CONFIG_FILE)


def open_adapter(folder: Path, base: Checkpoint | None) -> LoraCheckpoint:
    """Open a PEFT folder on its base.

    Raises:
        InputError: there is no base, a file is missing or damaged, or see `LoraCheckpoint`.
    """
    if base is None:
        raise _no_base(folder)
    config = _read_config(folder / CONFIG_FILE)
    name = next((name for name in WEIGHT_FILES if is_there(folder / name)), None)
    if name is None:
        raise InputError(
            f"{folder} has {CONFIG_FILE}, but neither of {', '.join(WEIGHT_FILES)}; copy the"
            " adapter's weights too."
        )
    adapter = WEIGHT_FILES[name](folder / name)
    hollow = sum(0 in adapter.shape(key) for key in adapter.keys())
    if hollow or not adapter.keys():
        advice = "Save it again with the weights gathered."
        if (ranks := find_rank_folder(folder.parent)) is not None:
            advice = f"The files of the ranks hold it: give {ranks}."
        raise InputError(
            f"{folder / name} holds {hollow or 'no'} tensors{' without entries' if hollow else ''}:"
            f" it was saved while its weights were spread over processes. {advice}"
        )
    files = [folder / name, folder / CONFIG_FILE]
    return LoraCheckpoint(folder, adapter, sorted(adapter.keys()), config, files, base)


def with_adapter(shards: FsdpCheckpoint, base: Checkpoint | None) -> Checkpoint:
    """FSDP shards with the adapter merged that is among their tensors, if there is one.

    Where the base has such tensors too, as Phi-4-multimodal does, they are the model's own.

    The adapter's base is what the shards hold beside it, or, where they hold the adapter alone
    (verl's `save_lora_only`), the given one.

    Raises:
        InputError: nothing says the adapter's alpha, there is no base, or see `LoraCheckpoint`.
    """
    adapter = [key for key in shards.keys() if _ADAPTER_KEY.search(key)]
    own_factors = base is not None and any(map(_ADAPTER_KEY.search, base.keys()))
    if not adapter or own_factors:
        return shards
    config_file = _shards_config(shards.path)
    own = {_plain_name(k): (shards, k) for k in shards.keys() if not _ADAPTER_KEY.search(k)}
    origin = GatheredCheckpoint(shards, own) if own else base
    if origin is None:
        raise _no_base(shards.path)
    files = [*shards.files(), config_file]
    return LoraCheckpoint(
        shards.path,
        shards,
        adapter,
        _read_config(config_file),
        files,
        origin,
    )


def _shards_config(folder: Path) -> Path:
    """The file beside FSDP shards that says the rank and alpha of the adapter among them."""
    choices = (folder / SHARDS_FOLDER / CONFIG_FILE, folder / SHARDS_META_FILE)
    for file in choices:
        if is_there(file):
            return file
    raise InputError(
        f"{folder} holds LoRA adapters, but neither {SHARDS_FOLDER}/{CONFIG_FILE} (EasyR1) nor"
        f" {SHARDS_META_FILE} (verl), which say their scaling. Copy it from the training run, or"
        f' write {SHARDS_META_FILE} there with what the run was started with: {{"r": …,'
        ' "lora_alpha": …}.'
    )


def _no_base(folder: Path) -> InputError:
    return InputError(
        f"{folder} is a LoRA adapter without its model; give it as an expert, with the model that"
        " it was trained on as the base."
    )


def _plain_name(name: str) -> str:
    """The name without what PEFT has put before it and into it."""
    return _WRAPPERS.sub("", name.removeprefix(_PREFIX))


def _read_config(file: Path) -> _Config:
    content = read_json(file, "a configuration of PEFT")
    if "lora_parameters" in content:
        raise InputError(
            f"{file} is of MLX-LM, whose adapters aren't read; run `mlx_lm.fuse --adapter-path"
            f" {file.parent}`, and give the result."
        )
    kind = content.get("peft_type", "LORA")
    if kind != "LORA":
        advice = "merge it with PEFT and give the result"
        if str(kind).endswith(_NO_WEIGHTS):
            advice = "it changes no weights, so that there is nothing to merge"
        raise InputError(f"{file}: adapters of type {kind} aren't read, only LORA; {advice}.")
    try:
        config = _Config.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        wrong = f"{key} can't be {shown(problem['input'])} ({problem['msg']})"
        if problem["type"] == "missing":
            wrong = f"{key} is missing, which a configuration of PEFT has"
        raise InputError(f"{file}: {wrong}; copy the file again.") from None
    used = [key for key in _NOT_READ if content.get(key)]
    changes_base = str(config.init_lora_weights).lower().startswith(_CHANGES_THE_BASE)
    if used or changes_base:
        key = used[0] if used else "init_lora_weights"
        raise InputError(
            f"{file}: adapters with {key}: {shown(content[key])} aren't W_0 + s · B A of the plain"
            " base, and aren't read; merge it with PEFT and give the result."
        )
    if sum(_cost(pattern, file) for pattern in config.alpha_pattern or {}) > _PATTERNS_LIMIT:
        raise InputError(
            f"{file}: alpha_pattern has regular expressions that together can take for ever; write"
            " out the modules' names."
        )
    return config


def _cost(pattern: str, file: Path) -> int:
    """About the ways in which a regular expression of a simple kind can fit a module's name."""
    atoms = _ATOM.sub("x", pattern)
    groups = [group.count("|") + 1 for group in _GROUP.findall(atoms)]
    outer = _GROUP.sub("", atoms)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        outer = "("
    if not _SIMPLE.fullmatch(outer) or _REPEATED_GROUP.search(atoms) or len(pattern) > 1000:
        raise InputError(
            f"{file}: alpha_pattern: {pattern[:100]!r} isn't a regular expression of a simple kind"
            " (no group in a group, or repeated); write out the modules' names."
        )
    repeats = len(re.findall(r"[*+{]", atoms))
    optional = len(re.findall(r"(?<!\()\?", atoms))
    return math.prod(groups) * (outer.count("|") + 1) * 50 ** min(repeats, 9) * 2**optional
