"""The settings of LIPO, ``algorithm.lipo.*``."""

import difflib
import functools
from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError

SECTION = "algorithm.lipo"


class LipoConfigError(ValueError):
    """A setting of LIPO that is unknown or impossible; the message names it and what is allowed."""


class LipoSetupError(ValueError):
    """The launch asks for LIPO in a way that cannot work; the message says what to set."""


class LipoConfig(BaseModel):
    """Settings under ``algorithm.lipo.``; docs/lipo.md explains when to change which.

    Labels: [V] said by a source on the paper, [I] our reading of it, [ours] not in the paper.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    reward_threshold: float = Field(
        0.1, description="xi: rewards closer than this count as equal; <= 0: no boost [V]"
    )
    pairing: Literal["all", "adjacent"] = Field(
        "all", description="compare with every longer response, or the next longer only [I]"
    )
    decay: Literal["linear", "cosine"] = Field(
        "linear", description="how the boost falls to 0 at length_threshold [I]"
    )
    length_threshold: float | None = Field(
        None, gt=0, description="L_max in tokens; null: the longest response of the group [V/I]"
    )
    boost: float = Field(
        0.1,
        ge=0,
        description="kappa; up to xi/(1-xi) an answer worse by xi or more never overtakes [D]",
    )
    weight_scale: Annotated[float, Field(gt=0, allow_inf_nan=True)] | None = Field(
        None, description="s in tokens; null: L_opt; inf: all weights 1 [I]"
    )
    weight_advantage: bool = Field(False, description="multiply A_i by w_i as well [I]")
    std_floor: float = Field(0.0, ge=0, description="least standard deviation; 0: the paper [ours]")
    correct_only: bool = Field(
        True,
        description="length tells correct answers apart only: no boost for a wrong one; "
        "false: the paper [ours]",
    )
    correct_score: float = Field(
        0.5,
        description="a response counts as correct from this score on, of the reward's accuracy "
        "where it names one [ours]",
    )
    min_pass_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="length terms are off in groups with a smaller share of correct answers [ours]",
    )
    sign_clamp: bool = Field(
        False,
        description="in a mixed group, no correct answer below 0 and no wrong one above it [ours]",
    )
    response_budget: int | None = Field(
        None,
        gt=0,
        description="tokens a response may have, reaching it counts as truncated; null: what the "
        "framework says [ours]",
    )

    @classmethod
    def parse(cls, section: Mapping[str, Any] | None) -> "LipoConfig":
        """The settings in ``section``, defaults for what it leaves out.

        Raises LipoConfigError, which lists every wrong key with its allowed values.
        """
        if not isinstance(section, Mapping | DictConfig | None):
            raise LipoConfigError(
                f"{SECTION}={section!r} is no group of settings; set {SECTION}.<setting>: "
                f"{', '.join(cls.model_fields)}."
            )
        try:
            return cls.model_validate({str(key): value for key, value in (section or {}).items()})
        except ValidationError as error:
            raise LipoConfigError("\n".join(map(cls._explain, error.errors()))) from None

    @classmethod
    def _explain(cls, error: Any) -> str:
        key = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            known = list(cls.model_fields)
            close = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {SECTION}.{close[0]}?" if close else ""
            return f"{SECTION}.{key}: no such setting.{hint} Settings: {', '.join(known)}."
        field = cls.model_fields[key]
        return (
            f"{SECTION}.{key}={error['input']!r}: {error['msg']}. "
            f"{key}: {field.description}; default {_plain(field.default)}."
        )

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """The settings as keyword arguments of :func:`lipo_verl.lipo.lipo`."""
        return self.model_dump(exclude={"response_budget"})

    def __str__(self) -> str:
        return " ".join(f"{key}={_plain(value)}" for key, value in self.model_dump().items())


def _plain(value: Any) -> str:
    return "null" if value is None else "inf" if value == inf else str(value)
