"""Shapes of Qwen2.5-VL and Qwen3-VL models, and how many parameters they have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SizeError(ValueError):
    """A model or setting that the command can't work with; the message says what to do."""


@dataclass(frozen=True)
class Shape:
    """What of a Qwen2.5-VL's config.json decides memory and time.

    Attributes:
        head: width of an attention head.
        tied: the output layer is the embedding.
        image_depth, image_hidden, image_intermediate: of the vision tower.
        patch: numbers of one patch, 3 colours × 2 frames × 14 × 14.
        patches_per_token: patches that become one image token.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int
    tied: bool
    image_depth: int
    image_hidden: int
    image_intermediate: int
    patch: int = 3 * 2 * 14 * 14
    patches_per_token: int = 4

    @property
    def query(self) -> int:
        """Width of the queries of one layer."""
        return self.head * self.heads

    @property
    def key_value(self) -> int:
        """Width of the keys of one layer, and of its values."""
        return self.head * self.key_value_heads

    @property
    def layer_parameters(self) -> int:
        """h² + h (q) + 2 (h·kv + kv) (k, v) + h² (o) + 3·h·f (gate, up, down) + 2·h (norms)."""
        h, kv, f = self.hidden, self.key_value, self.intermediate
        return 2 * h * h + h + 2 * (h * kv + kv) + 3 * h * f + 2 * h

    @property
    def layer_widths(self) -> int:
        """Inputs and outputs of a layer's linear maps: q, o, k, v, gate, up and down."""
        h = self.hidden
        return 2 * (h + self.query) + 2 * (h + self.key_value) + 3 * (h + self.intermediate)

    @property
    def vision_widths(self) -> int:
        """The same of the vision tower: qkv, projection, gate, up, down, and the merger's two."""
        d, f = self.image_hidden, self.image_intermediate
        return self.image_depth * (9 * d + 3 * f) + self._merger_widths

    @property
    def _merger_widths(self) -> int:
        return 3 * self.patches_per_token * self.image_hidden + self.hidden

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA on all linear maps but the output layer: r·(in + out) for each."""
        return rank * (self.layers * self.layer_widths + self.vision_widths)

    @property
    def embedding_parameters(self) -> int:
        """V·h, twice where the output layer is not the embedding."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def vision_parameters(self) -> int:
        """Patch embedding, blocks, and the merger of 2 × 2 patches to a token; with biases."""
        d, f, h = self.image_hidden, self.image_intermediate, self.hidden
        block = 4 * d * d + 4 * d + 3 * d * f + 2 * f + d + 2 * d
        wide = self.patches_per_token * d
        merger = d + wide * wide + wide + wide * h + h
        return self.patch * d + self.image_depth * block + merger

    @property
    def parameters(self) -> int:
        """Embedding, layers, last norm, output layer, and the vision tower."""
        language = self.embedding_parameters + self.layers * self.layer_parameters + self.hidden
        return language + self.vision_parameters


@dataclass(frozen=True, kw_only=True)
class Qwen3Shape(Shape):
    """The same of a Qwen3-VL.

    Attributes:
        positions: learned position embeddings of the vision tower.
        deepstack: layers of the vision tower whose output the first language layers get.
    """

    patch: int = 3 * 2 * 16 * 16
    positions: int
    deepstack: int

    @property
    def layer_parameters(self) -> int:
        """2·h·q (q, o) + 2·h·kv (k, v) + 3·h·f (gate, up, down) + 2·h + 2·head (norms)."""
        h = self.hidden
        linear = 2 * self.query + 2 * self.key_value + 3 * self.intermediate
        return h * linear + 2 * h + 2 * self.head

    @property
    def vision_parameters(self) -> int:
        """Patch and position embedding, blocks, and one merger more for each of ``deepstack``; with
        biases. The mergers of ``deepstack`` have their norm after the patches are put together."""
        d, f, h = self.image_hidden, self.image_intermediate, self.hidden
        block = 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d
        wide = self.patches_per_token * d
        merger = wide * wide + wide + wide * h + h
        mergers = merger + 2 * d + self.deepstack * (merger + 2 * wide)
        return (self.patch + 1 + self.positions) * d + self.image_depth * block + mergers

    @property
    def vision_widths(self) -> int:
        """Inputs and outputs of qkv, projection and two maps in each block, and of all mergers'."""
        d, f = self.image_hidden, self.image_intermediate
        return self.image_depth * (8 * d + 2 * f) + (1 + self.deepstack) * self._merger_widths


BUILT_IN = {
    "3b": Shape(36, 2048, 11008, 16, 2, 128, 151936, True, 32, 1280, 3420),
    "7b": Shape(28, 3584, 18944, 28, 4, 128, 152064, False, 32, 1280, 3420),
}
"""Qwen2.5-VL-3B-Instruct and -7B-Instruct, from their config.json."""


def shape(model: str) -> Shape:
    """The shape of ``3b``, ``7b``, their Hub ids, or a folder with a Qwen2.5-VL's or Qwen3-VL's
    config.json.

    Raises SizeError.
    """
    name = model.lower().removeprefix("qwen/qwen2.5-vl-").removesuffix("-instruct")
    if name in BUILT_IN:
        return BUILT_IN[name]
    path = Path(model, "config.json")
    if not path.is_file():
        raise SizeError(
            f"There is no {path}. The sizes of {', '.join(BUILT_IN)} are known, and that of a "
            "model's folder."
        )
    return from_config(json.loads(path.read_text()), path)


def from_config(config: dict[str, Any], path: Path) -> Shape:
    """The shape that a config.json says, in today's form and in that of 2025, without text_config.

    Raises SizeError for another kind of model, and for a missing key.
    """
    kind = config.get("model_type")
    if kind not in ("qwen2_5_vl", "qwen3_vl"):
        raise SizeError(
            f"{path} is of a {kind}; the formulas are those of qwen2_5_vl and qwen3_vl."
        )
    text, vision = config.get("text_config", config), config["vision_config"]
    try:
        common = dict(
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            heads=text["num_attention_heads"],
            key_value_heads=text["num_key_value_heads"],
            vocabulary=text["vocab_size"],
            tied=config["tie_word_embeddings"],
            image_depth=vision["depth"],
            image_hidden=vision["hidden_size"],
            image_intermediate=vision["intermediate_size"],
        )
        if kind == "qwen2_5_vl":
            return Shape(head=common["hidden"] // common["heads"], **common)
        return Qwen3Shape(
            head=text["head_dim"],
            positions=vision["num_position_embeddings"],
            deepstack=len(vision["deepstack_visual_indexes"]),
            **common,
        )
    except KeyError as error:
        raise SizeError(f"{path} has no {error}.") from error
