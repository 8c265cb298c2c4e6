"""What is merged, and how.

Task vectors come from the base, but for `interpolation` and `ties`, which go from the quick model
towards the long one, and what is made from them. `repair` lengthens the quick model's answers by
going only a part of the way that it came; DLER does so with a model that became too short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INTERPOLATION = "interpolation"

SCALES = {
    INTERPOLATION: (0.25, 0.5, 0.7),
    "task_arithmetic": (0.75, 1.0),
    "tsv": (0.5, 1.0),
    "iso_c": (0.5, 1.0),
    "wudi": (0.5, 1.0),
    "amm": (0.5, 1.0),
}
"""The scales of each method that has some. Task arithmetic at 0.5 is interpolation at 0.5;
interpolation at 0.7 is the task arithmetic of the long-to-short paper (arXiv 2503.20641)."""


@dataclass(frozen=True)
class Merge:
    """One merge of the sweep.

    Attributes:
        name: of the merged model.
        base: name of a model.
        experts: names of models; merges before it in the sweep are some too.
        method: the method.
        parameters: its settings.
        table: the one of them that names a calibration's file, which has that name too.
    """

    name: str
    base: str
    experts: tuple[str, ...]
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    table: str | None = None


def scaled(method: str, scale: float) -> Merge:
    """A merge of `SCALES`."""
    name, parameters = f"{method}-{scale:g}", {"scale": scale}
    if method == INTERPOLATION:
        return Merge(name, "quick", ("long",), "task_arithmetic", parameters)
    return Merge(name, "base", ("quick", "long"), method, parameters)


SWEEP = (
    *(scaled(method, scale) for method, scales in SCALES.items() for scale in scales),
    Merge("ties", "quick", ("long",), "ties", {"density": 0.8, "scale": 1.0}),
    Merge("aim-ties", "quick", ("ties",), "aim", table="activations"),
    Merge("rpam", "long", ("quick",), "rpam", table="coefficients"),
    Merge("repair", "base", ("quick",), "ties", {"density": 0.25, "scale": 0.7}),
)
"""`ties` has the long-to-short paper's values, `repair` DLER's (arXiv 2510.15110)."""
