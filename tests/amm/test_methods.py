"""Registry: names, settings, and what a wrong one is answered with."""

import pytest
from pydantic import Field

from amm.errors import InputError
from amm.methods import get_method, method_names, register, registry
from amm.settings import Settings, validated


class ToySettings(Settings):
    width: int = Field(1, gt=0)


def toy(task_vectors, settings):
    return task_vectors[0]


BUILT_IN = [
    "amm",
    "dare",
    "emr",
    "iso_c",
    "mean",
    "optmerge",
    "ridge",
    "task_arithmetic",
    "ties",
    "tsv",
    "wudi",
    "wudi_spectral",
]


@pytest.fixture(autouse=True)
def registrations_end_with_the_test(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def test_known_methods():
    assert set(BUILT_IN) <= set(method_names())


def test_registering_the_same_function_twice_is_fine():
    for _ in range(2):
        assert register("toy", settings=ToySettings, tensors="all")(toy) is toy
    assert get_method("toy").function is toy


def test_taken_name_is_refused():
    with pytest.raises(InputError, match="'amm' belongs to amm.methods.amm.amm already"):
        register("amm", settings=ToySettings, tensors="all")(toy)


def test_unknown_name_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(InputError, match=r"'wudy'. Did you mean 'wudi'\? Allowed: amm, dare"):
        get_method("wudy")


def test_statistics_need_a_place_to_be_handed_on_in():
    with pytest.raises(ValueError, match="statistics need elementwise=True and place=True"):
        register("toy", settings=ToySettings, tensors="all", statistics=lambda blocks, s: None)
    with pytest.raises(ValueError, match="a kernel needs elementwise"):
        register("toy", settings=ToySettings, tensors="all", kernel=get_method("mean").kernel)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_says_what_becomes_of_all_tensors(name):
    method = get_method(name)
    fields = method.settings.model_fields
    assert method.tensors == "all" or {"other_tensors", "scale"} <= set(fields)
    assert method.settings() == method.settings()
    assert method.function.__doc__ and method.settings.__doc__


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, r"unknown key 'step'. Did you mean 'steps'\? Allowed: alpha, beta"),
        ({"alpha": "norms"}, r"alpha can't be 'norms'. Did you mean 'norm'\?.*squared_norm"),
        ({"steps": -1}, "steps can't be -1: it must be greater than or equal to 0"),
        ({"steps": "many"}, "steps can't be 'many': it must be a valid integer"),
        ({"temperature": 0}, "temperature can't be 0: it must be greater than 0"),
        ({"lr": float("nan")}, "lr can't be nan: it must be a finite number"),
        ({"other_tensors": "meen"}, r"Did you mean 'mean'\? Allowed: base, mean, task_arithmetic"),
    ],
)
def test_wrong_settings_are_answered_with_the_allowed_ones(values, message):
    with pytest.raises(InputError, match=message):
        validated(get_method("amm").settings, values, "parameters of method 'amm'")


def test_all_wrong_settings_are_reported_at_once():
    with pytest.raises(InputError) as error:
        validated(get_method("wudi").settings, {"lr": 0, "normalise": True}, "here")
    assert str(error.value).count("\n") == 1


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        get_method("amm").settings().steps = 3
