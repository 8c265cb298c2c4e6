"""What a merge is made of: the content of `merge.yaml`, and the arguments of `amm.merge`.

    base: models/Qwen2.5-VL-3B-Instruct
    experts:
      - runs/math/global_step_120
      - runs/charts/global_step_90/actor
    method: amm                 # default
    parameters: {steps: 300}    # settings of the method, all optional
    output: models/merged

Relative paths are relative to the folder that the command is run in, as on the command line.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from amm.checkpoints.files import read_small
from amm.checkpoints.hub import hub_id
from amm.errors import InputError
from amm.methods import get_method
from amm.methods.registry import parameters_of
from amm.settings import Settings, validated

_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]i?)?B?\s*", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

_CONFIG_LIMIT = 2**18
"""Bytes of a merge.yaml."""
_LEVELS_LIMIT = 20
_ALIASES_LIMIT = 10

BASE = "base"
"""In place of a method: tensors are left as they are in the base."""

UNION = "union"
"""`parts` of a merge whose output has what any of the models has."""

_LAYERS = re.compile(r"(\d{1,5})(?:-(\d{1,5})?)?")


def _folder(value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("a path; put one such as 120 or on in quotes")
    if "\0" in str(value):
        raise ValueError("a path, without NUL")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("a path whose ~ stands for a home folder that is known") from None


def _folder_or_hub_id(value: Any) -> Path | str:
    """A folder that exists stays one, whatever it is called; `org/name` may be on the Hub."""
    if isinstance(value, str) and hub_id(value):
        return value
    return _folder(value)


Folder = Annotated[Path, BeforeValidator(_folder)]
Source = Annotated[Path | str, BeforeValidator(_folder_or_hub_id)]


def parse_size(value: Any) -> int:
    """Bytes from a number, or from a text such as `500MB`, `1 GB` (10⁹) or `1GiB` (2³⁰).

    Raises:
        ValueError: it is neither, or less than one byte.
    """
    match = _SIZE.fullmatch(str(value))
    if match is None:
        raise ValueError("a size such as 500MB, 1GB or 1GiB")
    unit = (match[2] or "").lower()
    size = int(float(match[1]) * (1024 if "i" in unit else 1000) ** _POWER[unit[:1]])
    if size < 1:
        raise ValueError("at least one byte")
    return size


class Expert(Settings):
    """An expert. In YAML its path alone will do.

    Attributes:
        path: Hugging Face folder, FSDP shards of verl or EasyR1, LoRA adapter, or id on the Hub
            (`org/name` or `org/name@revision`) where there is no such folder.
        weight: factor on its task vector.
        base: the model that it was trained from, where that isn't the merge's base: what it learnt
            beyond that is added to the merge's.
        partial: it may cover a part of the base; the rest is carried over from the base, as if that
            had been frozen.
    """

    path: Source
    weight: float = 1.0
    base: Source | None = None
    partial: bool = False

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping | Expert) else {"path": value}

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> Any:
        said = dump(self)
        return said["path"] if self == Expert(path=self.path) else said


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _layer_range(value: Any) -> Any:
    if value is None or isinstance(value, list | tuple):
        return value
    match = _LAYERS.fullmatch(str(value))
    if match is None or (match[2] and int(match[1]) > int(match[2])):
        raise ValueError("a layer or a range of them, such as 5, 0-11 or 12-")
    first = int(match[1])
    return first, (int(match[2]) if match[2] else first if match[0] == match[1] else None)


class Override(Settings):
    """What is done otherwise with some tensors; the first of several that fits a tensor counts.

    Attributes:
        names: patterns of the tensors' names in the base, with `*` and `?`: one, or a list.
        layers: numbers of the layers, such as `5`, `0-11` or `12-`.
        method: the method for these, or `base`: they are left as in the base.
        parameters: its settings; with the merge's method, those that differ from the merge's.
        weights: of all experts, instead of theirs.
    """

    names: Annotated[tuple[str, ...], BeforeValidator(_several)] = ("*",)
    layers: Annotated[tuple[int, int | None] | None, BeforeValidator(_layer_range)] = None
    method: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    weights: tuple[float, ...] | None = None

    def fits(self, name: str, layer: int | None) -> bool:
        """Whether it is for a tensor.

        Args:
            name: the tensor's.
            layer: the number of its layer, None outside the layers.
        """
        if self.layers is not None:
            first, last = self.layers
            if layer is None or layer < first or (last is not None and layer > last):
                return False
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)


class MergeConfig(Settings):
    """A merge.

    Attributes:
        base: folder of the model that the experts were trained from, or its id on the Hub.
        experts: paths, or what `Expert` has.
        partial_experts: every expert may cover a part of the base.
        parts: the output has the `base`'s, or the `union` of all models': what one of them alone
            has, such as an encoder, is copied from it.
        output: the folder to write; it must not exist, or be empty.
        method: name of the merge method.
        parameters: settings of the method.
        overrides: what is done otherwise with some tensors, see `Override`.
        save_dtype: dtype of the merged weights; None keeps that of each tensor of the base.
        compute_dtype: dtype in which differences are taken and merged.
        device: where methods run that take a layer as a whole: `cpu`, `cuda`, or `cuda:N`. The
            others are done before a GPU has their blocks; they and all else run on the CPU.
        engine: `local`, or `ray` to spread the tensors over a Ray cluster; the output is the same.
        max_memory: ceiling of the memory that the merge takes beyond what the program itself does,
            mapped pages of the inputs included; with `ray` in each process.
        hash_inputs: put SHA-256 hashes of the inputs' weight files into the report.
        max_shard_size: bytes of weights in one output file, a number or a text such as `1GB`.
        copy_files_from: folder whose files other than weights (configuration, tokenizer,
            processor, chat template …) are copied into the output; None takes the base's.
    """

    base: Source
    experts: tuple[Expert, ...] = Field(min_length=1)
    partial_experts: bool = False
    parts: Literal["base", "union"] = "base"
    output: Folder
    method: str = "amm"
    parameters: dict[str, Any] = Field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    compute_dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    engine: Literal["local", "ray"] = "local"
    max_memory: Annotated[int, BeforeValidator(parse_size)] = 3_500_000_000
    hash_inputs: bool = True
    max_shard_size: Annotated[int, BeforeValidator(parse_size)] = 10**9
    copy_files_from: Folder | None = None

    @field_validator("engine")
    @classmethod
    def _engine_is_installed(cls, value: str) -> str:
        if value == "ray" and importlib.util.find_spec("ray") is None:
            raise ValueError("local, or ray once Ray is installed (pip install ray)")
        return value

    @field_validator("device")
    @classmethod
    def _device_exists(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
            raise ValueError("cpu, cuda or cuda:N")
        if value != "cpu" and int(value.partition(":")[2] or 0) >= torch.cuda.device_count():
            raise ValueError(f"cpu or one of the {torch.cuda.device_count()} CUDA devices here")
        return value

    @property
    def sources(self) -> tuple[Path | str, ...]:
        """The base and the experts, as they were named."""
        return (self.base, *(expert.path for expert in self.experts))

    def method_settings(self) -> Settings:
        """The method's settings from `parameters`.

        Raises:
            InputError: unknown method, or a wrong key or value.
        """
        return _settings_of(self.method, self.parameters, parameters_of(self.method))

    def override_settings(self, number: int) -> tuple[str, Settings | None]:
        """Name and settings of the method of one of the `overrides`; None for `base`.

        Raises:
            InputError: as `method_settings`, or weights that aren't one for each expert.
        """
        override, where = self.overrides[number], f"overrides.{number}"
        weights = override.weights
        if weights is not None and len(weights) != len(self.experts):
            raise InputError(
                f"{where}: weights has {len(weights)} numbers; give one for each of the"
                f" {len(self.experts)} experts."
            )
        name = override.method or self.method
        if name == BASE:
            return name, None
        inherited = self.parameters if name == self.method else {}
        parameters = {**inherited, **override.parameters}
        return name, _settings_of(name, parameters, f"{where}: {parameters_of(name)}")


def _settings_of(method: str, parameters: Mapping[str, Any], where: str) -> Settings:
    return validated(get_method(method).settings, parameters, where)


def load_config(path: str | Path) -> MergeConfig:
    """Read `merge.yaml`.

    Raises:
        InputError: it isn't there, isn't YAML, has a key twice, or has wrong keys or values.
    """
    try:
        Path(path).stat()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from None
    text = read_small(Path(path), "the settings of a merge", _CONFIG_LIMIT)
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} must have keys and values, such as 'base: path/to/model'.")
    return validated(MergeConfig, content, str(path))


def parse_yaml(text: bytes | str, where: str) -> Any:
    """Parse the YAML of settings.

    It has few levels and aliases: with many, a few lines make a value of any size.

    Args:
        text: the YAML.
        where: what it is, for the message.

    Raises:
        InputError: it isn't that, or has a key twice.
    """
    import yaml

    depth = aliases = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > _LEVELS_LIMIT or aliases > _ALIASES_LIMIT:
                raise ValueError(f"over {_LEVELS_LIMIT} levels or {_ALIASES_LIMIT} aliases")
        twice = _key_twice(text)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:500]
        raise InputError(f"{where} isn't YAML: {reason}.") from None
    if twice is not None:
        raise InputError(f"{where}: {twice}; the last would count alone. Keep one.")
    return content


def _key_twice(text: bytes | str) -> str | None:
    """Where a mapping of a YAML document has a key twice, in words; YAML itself takes the last."""
    import yaml

    nodes, seen = [yaml.compose(text, Loader=yaml.SafeLoader)], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias is the node itself
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        lines: dict[tuple[str, Any], int] = {}
        for key, value in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                return f"the key '{key.value}' is in line {lines[name]} and in line {line}"
            lines[name] = line
            nodes.append(value)
    return None
