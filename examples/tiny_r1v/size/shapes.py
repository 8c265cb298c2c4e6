"""Shapes of Qwen2.5-VL models, and how many parameters they have."""

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
    vocabulary: int
    tied: bool
    image_depth: int
    image_hidden: int
    image_intermediate: int
    patch: int = 3 * 2 * 14 * 14
    patches_per_token: int = 4

    @property
    def key_value(self) -> int:
        """Width of the keys of one layer, and of its values."""
        return self.hidden // self.heads * self.key_value_heads

    @property
    def layer_parameters(self) -> int:
        """h² + h (q) + 2 (h·kv + kv) (k, v) + h² (o) + 3·h·f (gate, up, down) + 2·h (norms)."""
        h, kv, f = self.hidden, self.key_value, self.intermediate
        return 2 * h * h + h + 2 * (h * kv + kv) + 3 * h * f + 2 * h

    @property
    def embedding_parameters(self) -> int:
        """V·h, twice where the output layer is not the embedding."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def language_parameters(self) -> int:
        """Embedding, layers, last norm, output layer."""
        return self.embedding_parameters + self.layers * self.layer_parameters + self.hidden

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
        """All of them."""
        return self.language_parameters + self.vision_parameters


BUILT_IN = {
    "3b": Shape(36, 2048, 11008, 16, 2, 151936, True, 32, 1280, 3420),
    "7b": Shape(28, 3584, 18944, 28, 4, 152064, False, 32, 1280, 3420),
}
"""Qwen2.5-VL-3B-Instruct and -7B-Instruct, from their config.json."""


def shape(model: str) -> Shape:
    """The shape of ``3b``, ``7b``, their Hub ids, or a folder with a Qwen2.5-VL's config.json.

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
    if config.get("model_type") != "qwen2_5_vl":
        raise SizeError(
            f"{path} is of a {config.get('model_type')}; the formulas are those of a qwen2_5_vl."
        )
    text, vision = config.get("text_config", config), config["vision_config"]
    try:
        return Shape(
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
    except KeyError as error:
        raise SizeError(f"{path} has no {error}.") from error
