"""The settings of LIPO, `algorithm.lipo.*`."""

import functools
from collections.abc import Iterator, Mapping
from math import inf
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field, ValidationError, create_model

from lipo_verl.errors import did_you_mean
from lipo_verl.schemes import Scheme, Settings, get_scheme, schemes

SECTION = "algorithm.lipo"


class LipoConfigError(ValueError):
    """A setting of LIPO that is unknown or impossible; the message names it and what is allowed."""


class LipoSetupError(ValueError):
    """The launch asks for LIPO in a way that cannot work; the message says what to set."""


class LipoConfig(Settings):
    """Settings under `algorithm.lipo.`: these, and those of the scheme; docs/lipo.md explains
    when to change which, docs/schemes.md has the schemes.

    `LipoConfig(scheme="kimi", weight=0.2)` is an instance of a subclass that has both.
    """

    scheme: str = Field("lipo", description="what length does to rewards; lipo: the paper's Eq. 3")
    weights: Literal["lipo", "none"] | None = Field(
        None,
        description="weights of mean and deviation, by the distance to an optimum length (lipo); "
        "null: lipo under the scheme lipo, none under the others [I]",
    )
    weight_scale: Annotated[float, Field(gt=0, allow_inf_nan=True)] | None = Field(
        None, description="s in tokens; null: L_opt; inf: all weights 1 [I]"
    )
    weight_advantage: bool = Field(False, description="multiply A_i by w_i as well [I]")
    normalization: Literal["group", "batch", "none"] = Field(
        "group",
        description="what is divided by once the group's mean is off: the group's deviation "
        "(GRPO), one of the whole batch (REINFORCE++), or nothing (Dr. GRPO) [ours]",
    )
    std_floor: float = Field(0.0, ge=0, description="least standard deviation; 0: the paper [ours]")
    keep: int | None = Field(
        None,
        ge=2,
        description="learn from this many responses of a group, those that keep_by puts first; "
        "null: from all (GFPO) [ours]",
    )
    keep_by: Literal["length", "reward_per_token"] = Field(
        "length", description="the shortest first, or the highest reward per token [ours]"
    )
    correct_only: bool = Field(
        True,
        description="length tells correct answers apart only: no raise for a wrong one; "
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

    def __new__(cls, **settings: Any) -> "LipoConfig":
        return super().__new__(_of(settings.get("scheme", "lipo")) if cls is LipoConfig else cls)

    def __reduce__(self) -> Any:
        return LipoConfig.parse, (self.model_dump(),)

    @classmethod
    def parse(cls, section: Mapping[str, Any] | None) -> "LipoConfig":
        """The settings in `section`, defaults for what it leaves out.

        Raises:
            LipoConfigError: some are wrong; lists every such key with its allowed values.
        """
        if not isinstance(section, Mapping | DictConfig | None):
            raise LipoConfigError(
                f"{SECTION}={section!r} is no group of settings; set {SECTION}.<setting>: "
                f"{', '.join(_of('lipo').model_fields)}."
            )
        settings = {str(key): value for key, value in (section or {}).items()}
        of_scheme = _of(settings.get("scheme", "lipo"))
        try:
            return of_scheme.model_validate(settings)
        except ValidationError as error:
            raise LipoConfigError("\n".join(map(of_scheme._explain, error.errors()))) from None

    @classmethod
    def _explain(cls, error: Any) -> str:
        key, known = str(error["loc"][0]), list(cls.model_fields)
        if error["type"] == "extra_forbidden":
            others = [s.name for s in schemes() if key in s.settings.model_fields]
            hint = did_you_mean(key, known, f"{SECTION}.")
            if others:
                hint = f" It is one of scheme={' and of scheme='.join(others)}."
            return f"{SECTION}.{key}: no such setting.{hint} Settings: {', '.join(known)}."
        field = cls.model_fields[key]
        if error["type"] == "missing":
            return f"{SECTION}.{key} is missing. {key}: {field.description}."
        return (
            f"{SECTION}.{key}={error['input']!r}: {error['msg']}. "
            f"{key}: {field.description}; default {_plain(field.default)}."
        )

    @property
    def weighted(self) -> bool:
        """Whether mean and deviation have LIPO's weights."""
        if self.weights is None:
            return get_scheme(self.scheme).weights
        return self.weights == "lipo"

    @property
    def without_effect(self) -> Iterator[str]:
        """A sentence for every setting that does nothing beside the others."""
        if not self.weighted and (self.weight_scale is not None or self.weight_advantage):
            yield f"weight_scale and weight_advantage do nothing without {SECTION}.weights=lipo."
        if self.normalization == "none" and self.std_floor:
            yield f"std_floor does nothing with {SECTION}.normalization=none."
        if self.keep is None and self.keep_by != "length":
            yield f"keep_by does nothing where {SECTION}.keep is not set."

    def __str__(self) -> str:
        return " ".join(f"{key}={_plain(value)}" for key, value in self.model_dump().items())


def _of(scheme: Any) -> type[LipoConfig]:
    """The class of the settings under a scheme. Raises LipoConfigError for an unknown one."""
    try:
        found = get_scheme(scheme)
    except (KeyError, TypeError):
        names = [known.name for known in schemes()]
        raise LipoConfigError(
            f"{SECTION}.scheme={scheme!r}: no such scheme.{did_you_mean(scheme, names)} "
            f"Schemes: {', '.join(names)}."
        ) from None
    return _with_settings(found)


@functools.cache
def _with_settings(scheme: Scheme) -> type[LipoConfig]:
    if taken := scheme.settings.model_fields.keys() & LipoConfig.model_fields.keys():
        raise LipoConfigError(
            f"the scheme {scheme.name} calls its settings {', '.join(sorted(taken))}, as common "
            "ones of LIPO; it must give them other names."
        )
    bases = (LipoConfig,) if scheme.settings is Settings else (scheme.settings, LipoConfig)
    # pydantic takes any bases, and says that all must be of the kind that it returns
    return create_model(LipoConfig.__name__, __base__=bases)  # type: ignore[arg-type]


def _plain(value: Any) -> str:
    return "null" if value is None else "inf" if value == inf else str(value)
