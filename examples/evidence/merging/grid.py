"""What the bench merges by: every method as published and at other scales, and AMM's choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Merge:
    """A method of `amm merge` and its settings."""

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        said = [f"{key} {value}" for key, value in self.parameters.items()]
        return ", ".join([self.method, *said])


PUBLISHED = (
    Merge("mean"),
    Merge("karcher"),
    Merge("task_arithmetic"),
    Merge("ties"),
    Merge("dare"),
    Merge("della"),
    Merge("ram"),
    Merge("ram", {"boost": 1.2}),
    Merge("sce"),
    Merge("model_stock"),
    Merge("tsv"),
    Merge("iso_c"),
    Merge("optmerge"),
    Merge("ridge"),
    Merge("wudi_spectral"),
    Merge("wudi_spectral", {"rank": "effective"}),
    Merge("wudi"),
    Merge("amm"),
)
"""Every method that makes one model of any number of experts from their weights alone."""

SCALES = (0.3, 0.5, 0.7, 1.4)
"""Tried beside each method's own, 1, where it has the setting `scale`."""
WITHOUT_SCALE = ("mean", "karcher")


def scaled(merge: Merge) -> list[Merge]:
    """The merge, and the same at every other scale."""
    if merge.method in WITHOUT_SCALE:
        return [merge]
    others = [Merge(merge.method, {**merge.parameters, "scale": scale}) for scale in SCALES]
    return [merge, *others]


CHOICES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "R": (
        {"penalty_weight": 0.0},
        {"penalty_weight": 0.05},
        {"penalty_weight": 1.0},
        {"penalty_weight": 4.0},
        {"penalty": "per_task"},
        {"penalty": "projection"},
    ),
    "α": ({"alpha": "uniform"}, {"alpha": "squared_norm"}, {"alpha": "inverse_norm"}),
    "β": (
        {"beta": "uniform"},
        {"beta": "mean_cos_others"},
        {"beta": "neg_loss"},
        {"temperature": 0.1},
        {"beta_every": 10},
    ),
    "descent": (
        {"steps": 30},
        {"steps": 100},
        {"steps": 1000},
        {"steps": 3000},
        {"lr": 0.03},
        {"precision": "highest"},
        {"stride": 1},
        {"stride": 30},
    ),
    "scale": tuple({"scale": scale} for scale in SCALES),
    "other tensors": ({"other_tensors": "base"}, {"other_tensors": "task_arithmetic"}),
}
"""AMM's open choices by what they are of: each away from the defaults, one at a time."""


def is_reading(choice: Mapping[str, Any]) -> bool:
    """Whether AMM with the choice still has the paper's three ingredients, R, α and β."""
    return choice.get("penalty_weight") != 0 and "uniform" not in choice.values()


def choices() -> list[Merge]:
    """AMM with one choice other than the defaults."""
    return [Merge("amm", choice) for kind in CHOICES.values() for choice in kind]


WITHOUT = (
    Merge("amm", {"penalty_weight": 0.0}),
    Merge("amm", {"alpha": "uniform"}),
    Merge("amm", {"beta": "uniform"}),
    Merge("amm", {"alpha": "uniform", "penalty_weight": 0.0}),
    Merge("amm", {"beta": "uniform", "penalty_weight": 0.0}),
    Merge("amm", {"alpha": "uniform", "beta": "uniform"}),
)
"""AMM without some of R, α and β; without all of them it is WUDI."""
