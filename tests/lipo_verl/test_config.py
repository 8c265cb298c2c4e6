"""The settings: their defaults, and what a wrong one is answered."""

import math
import pickle

import pytest
from omegaconf import OmegaConf

from lipo_verl.config import LipoConfig, LipoConfigError, _with_settings
from lipo_verl.schemes import Scheme, Settings, schemes

COMMON = {
    "scheme": "lipo",
    "weights": None,
    "weight_scale": None,
    "weight_advantage": False,
    "normalization": "group",
    "std_floor": 0.0,
    "keep": None,
    "keep_by": "length",
    "correct_only": True,
    "correct_score": 0.5,
    "min_pass_rate": 0.0,
    "sign_clamp": False,
    "response_budget": None,
}
DEFAULTS = COMMON | {
    "reward_threshold": 0.1,
    "pairing": "all",
    "decay": "linear",
    "length_threshold": None,
    "boost": 0.1,
}
"""The table of the method, and the options of ours."""


def message(section) -> str:
    with pytest.raises(LipoConfigError) as error:
        LipoConfig.parse(section)
    return str(error.value)


@pytest.mark.parametrize("section", [None, {}, OmegaConf.create({})])
def test_defaults_are_those_of_the_method(section):
    assert LipoConfig.parse(section).model_dump() == DEFAULTS


@pytest.mark.parametrize("make", [dict, OmegaConf.create])
def test_settings_win_over_defaults(make):
    section = {"boost": 0.3, "pairing": "adjacent", "length_threshold": 512, "decay": "cosine"}
    assert LipoConfig.parse(make(section)).model_dump() == DEFAULTS | section


def test_misspelt_key_is_answered_with_the_right_one_and_the_list():
    text = message({"reward_treshold": 0.2})
    assert "algorithm.lipo.reward_treshold: no such setting." in text
    assert "Did you mean algorithm.lipo.reward_threshold?" in text
    assert ", ".join(DEFAULTS) in text


def test_key_like_no_other_is_answered_with_the_list_alone():
    text = message({"qqq": 1})
    assert "Did you mean" not in text
    assert ", ".join(DEFAULTS) in text


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("pairing", "next", "'all' or 'adjacent'"),
        ("pairing", None, "'all' or 'adjacent'"),
        ("decay", "exponential", "'linear' or 'cosine'"),
        ("reward_threshold", "high", "valid number"),
        ("reward_threshold", math.inf, "finite"),
        ("length_threshold", 0, "greater than 0"),
        ("length_threshold", -5, "greater than 0"),
        ("length_threshold", math.inf, "finite"),
        ("boost", -0.1, "greater than or equal to 0"),
        ("boost", [1], "valid number"),
        ("weight_scale", 0, "greater than 0"),
        ("weight_scale", -math.inf, "greater than 0"),
        ("weight_advantage", "maybe", "valid boolean"),
        ("std_floor", -1, "greater than or equal to 0"),
    ],
)
def test_wrong_value_is_answered_with_key_value_and_what_is_allowed(key, value, allowed):
    text = message({key: value})
    assert text.startswith(f"algorithm.lipo.{key}={value!r}: ")
    assert allowed in text
    assert f"default {'null' if DEFAULTS[key] is None else DEFAULTS[key]}" in text


@pytest.mark.parametrize("section", [0.1, [1], "all"])
def test_section_that_is_no_group_of_settings_is_refused(section):
    with pytest.raises(LipoConfigError, match=r"no group of settings; set algorithm\.lipo\."):
        LipoConfig.parse(section)


def test_every_wrong_setting_is_named_at_once():
    text = message({"boots": 1, "decay": "none", "std_floor": -1})
    assert {line.split(":")[0].split("=")[0] for line in text.splitlines()} == {
        "algorithm.lipo.decay",
        "algorithm.lipo.std_floor",
        "algorithm.lipo.boots",
    }


@pytest.mark.parametrize("key", [k for k, v in DEFAULTS.items() if not isinstance(v, (str, bool))])
@pytest.mark.parametrize("nan", [math.nan, "nan"])
def test_nan_is_refused(key, nan):
    assert message({key: nan}).startswith(f"algorithm.lipo.{key}=")


@pytest.mark.parametrize("value", [math.inf, "inf"])
@pytest.mark.parametrize("make", [dict, OmegaConf.create])
def test_infinite_weight_scale_is_accepted(make, value):
    config = LipoConfig.parse(make({"weight_scale": value}))
    assert config.weight_scale == math.inf
    assert "weight_scale=inf" in str(config)


def test_interpolations_of_omegaconf_are_resolved():
    whole = OmegaConf.create({"budget": 256, "lipo": {"length_threshold": "${budget}"}})
    assert LipoConfig.parse(whole.lipo).length_threshold == 256


def test_printed_settings_name_every_key_and_read_like_overrides():
    assert str(LipoConfig()) == (
        "scheme=lipo weights=null weight_scale=null weight_advantage=False normalization=group "
        "std_floor=0.0 keep=null keep_by=length correct_only=True correct_score=0.5 "
        "min_pass_rate=0.0 sign_clamp=False response_budget=null reward_threshold=0.1 pairing=all "
        "decay=linear length_threshold=null boost=0.1"
    )


def test_settings_cannot_be_changed_and_equal_ones_are_one_key():
    with pytest.raises(ValueError, match="frozen"):
        LipoConfig().boost = 1.0
    assert len({LipoConfig(), LipoConfig(boost=0.1), LipoConfig(boost=0.2)}) == 2


# Schemes


def test_a_scheme_brings_its_settings_beside_the_common_ones():
    config = LipoConfig.parse({"scheme": "kimi", "weight": 0.2, "std_floor": 0.1})
    assert config.model_dump() == COMMON | {"scheme": "kimi", "weight": 0.2, "std_floor": 0.1}
    assert config == LipoConfig(scheme="kimi", weight=0.2, std_floor=0.1)
    assert isinstance(config, LipoConfig)


@pytest.mark.parametrize("scheme", [scheme.name for scheme in schemes() if scheme.name != "laser"])
def test_every_scheme_is_set_by_one_key(scheme):
    config = LipoConfig.parse({"scheme": scheme})
    assert config == LipoConfig.parse(config.model_dump()) == pickle.loads(pickle.dumps(config))
    assert config.model_dump().items() >= (COMMON | {"scheme": scheme}).items()


def test_a_setting_without_default_is_asked_for():
    assert message({"scheme": "laser"}).startswith("algorithm.lipo.target_length is missing.")
    assert LipoConfig(scheme="laser", target_length=100).bonus == 0.5


@pytest.mark.parametrize(
    ("scheme", "hint"), [("kim", "Did you mean kimi?"), (None, "Schemes"), ([1], "Schemes")]
)
def test_unknown_scheme_is_answered_with_the_list(scheme, hint):
    text = message({"scheme": scheme})
    assert text.startswith(f"algorithm.lipo.scheme={scheme!r}: no such scheme.")
    assert hint in text and "alp, arora, gr3, kimi, laser, laser_d, lipo, overlong" in text


def test_a_setting_of_another_scheme_is_refused_and_placed():
    assert "algorithm.lipo.boost: no such setting. It is one of scheme=lipo." in message(
        {"scheme": "kimi", "boost": 0.2}
    )
    assert "It is one of scheme=arora and of scheme=gr3 and of" in message({"alpha": 0.2})


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"scheme": "kimi", "weight_scale": 50}, "weights=lipo"),
        ({"weights": "none", "weight_advantage": True}, "weights=lipo"),
        ({"normalization": "none", "std_floor": 0.1}, "normalization=none"),
        ({"keep_by": "reward_per_token"}, "keep is not set"),
    ],
)
def test_settings_that_do_nothing_beside_others_are_named(section, named):
    (text,) = LipoConfig.parse(section).without_effect
    assert named in text
    assert not list(LipoConfig.parse({"scheme": "kimi"}).without_effect)


def test_a_scheme_may_not_take_the_name_of_a_common_setting():
    class Taken(Settings):
        keep: int = 1

    with pytest.raises(LipoConfigError, match="calls its settings keep, as common ones"):
        _with_settings(Scheme("taken", lambda responses, settings: responses.rewards, Taken))
