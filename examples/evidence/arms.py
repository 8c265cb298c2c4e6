"""The arms of the study: what is compared, each with the two strengths it is tuned over.

An arm is a set of verl's settings beside those that all arms share (`study.SHARED`). The numbers
are scaled to answers of 6 to 60 tokens; where a method was published with a strength that does not
depend on lengths, that is one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

BUDGET = 64
"""Tokens of the longest response, for all arms but DLER in training."""


@dataclass(frozen=True)
class Arm:
    """A way to train, up to one number."""

    name: str
    title: str
    """In tables, up to the strength."""
    settings: tuple[str, ...]
    knob: str = ""
    """The setting that is tuned."""
    strengths: tuple[float | int | None, ...] = (None,)
    """Of the knob, from the weaker pull on length to the stronger; None: there is no knob."""

    def overrides(self, strength: float | int | None) -> tuple[str, ...]:
        """verl's settings at one of the strengths."""
        return self.settings if strength is None else (*self.settings, f"{self.knob}={strength}")


def _scheme(name: str, *settings: str) -> tuple[str, ...]:
    """The estimator's settings under a length scheme."""
    return (
        "algorithm.adv_estimator=lipo",
        f"+algorithm.lipo.scheme={name}",
        *(f"+algorithm.lipo.{setting}" for setting in settings),
    )


_LIPO = _scheme("lipo", f"length_threshold={BUDGET}")
_CLIP_HIGHER = ("actor_rollout_ref.actor.clip_ratio_high=0.28",)
_BOOST, _BOOSTS = "+algorithm.lipo.boost", (0.03, 0.1)

ARMS = (
    Arm("grpo", "GRPO", ("algorithm.adv_estimator=grpo",)),
    Arm("lipo", "LIPO", _LIPO, _BOOST, _BOOSTS),
    Arm(
        "lipo-batch",
        "LIPO, batch deviation",
        (*_LIPO, "+algorithm.lipo.normalization=batch"),
        _BOOST,
        _BOOSTS,
    ),
    Arm("lipo-floor", "LIPO, `std_floor`", _LIPO, "+algorithm.lipo.std_floor", (0.5, 0.2)),
    Arm("lipo-pass", "LIPO, `min_pass_rate`", _LIPO, "+algorithm.lipo.min_pass_rate", (0.9, 0.5)),
    Arm(
        "lipo-clamp",
        "LIPO, `sign_clamp`",
        (*_LIPO, "+algorithm.lipo.sign_clamp=true"),
        _BOOST,
        _BOOSTS,
    ),
    Arm(
        "dapo",
        "DAPO, overlong",
        (*_scheme("overlong"), *_CLIP_HIGHER),
        "+algorithm.lipo.buffer",
        (32, 56),
    ),
    Arm(
        "dler",
        "DLER",
        (
            *_scheme("truncation", "normalization=batch"),
            *_CLIP_HIGHER,
            "actor_rollout_ref.actor.use_kl_loss=true",
            "actor_rollout_ref.actor.kl_loss_coef=0.0005",
        ),
        "data.max_response_length",
        (48, 24),
    ),
    Arm("kimi", "Kimi k1.5", _scheme("kimi"), "+algorithm.lipo.weight", (0.1, 0.4)),
    Arm("arora", "Arora", _scheme("arora"), "+algorithm.lipo.alpha", (0.1, 0.4)),
    Arm("laser", "LASER", _scheme("laser"), "+algorithm.lipo.target_length", (24, 12)),
    Arm(
        "laser_d",
        "LASER-D",
        _scheme("laser_d", "every=4"),
        "+algorithm.lipo.bonus",
        (0.1, 0.5),
    ),
    Arm(
        "shorterbetter",
        "ShorterBetter",
        _scheme("shorterbetter"),
        "+algorithm.lipo.beta",
        (0.004, 0.02),
    ),
    Arm("alp", "ALP", _scheme("alp"), "+algorithm.lipo.beta", (0.001, 0.004)),
    Arm(
        "gr3",
        "GR³",
        _scheme("gr3", "normalization=none"),
        "+algorithm.lipo.alpha",
        (0.1, 0.33),
    ),
    Arm("gfpo", "GFPO", _scheme("lipo", "boost=0", "weights=none"), "+algorithm.lipo.keep", (4, 3)),
)
BY_NAME = {arm.name: arm for arm in ARMS}
