"""What is merged, and how strongly.

Task vectors come from the base for all methods but `interpolation`, which goes from the quick
model to the long one in a straight line: W = W_quick + scale · (W_long − W_quick).
"""

from __future__ import annotations

from dataclasses import dataclass

INTERPOLATION = "interpolation"

SCALES = {
    INTERPOLATION: (0.25, 0.5, 0.75),
    "task_arithmetic": (0.75, 1.0),
    "tsv": (0.5, 1.0),
    "iso_c": (0.5, 1.0),
    "wudi": (0.5, 1.0),
    "amm": (0.5, 1.0),
}
"""The sweep: the scales of each method. Task arithmetic at 0.5 is interpolation at 0.5.

All of them work from the weights alone. Activation-informed methods, which run data through the
models, are not in `amm`.
"""


@dataclass(frozen=True)
class Merge:
    """One merge of the sweep, by a key of SCALES."""

    method: str
    scale: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.scale:g}"

    def arguments(self) -> dict[str, object]:
        """For ``amm.merge``: base and experts by name, method and settings."""
        if self.method == INTERPOLATION:
            base, experts, method = "quick", ["long"], "task_arithmetic"
        else:
            base, experts, method = "base", ["quick", "long"], self.method
        settings = {"scale": self.scale}
        return {"base": base, "experts": experts, "method": method, "parameters": settings}


SWEEP = tuple(Merge(method, scale) for method, scales in SCALES.items() for scale in scales)
