"""Registry: names, settings, and what a wrong one is answered with."""

import pytest
import torch
from method_cases import draw, in_blocks
from pydantic import Field

import amm
from amm.errors import InputError
from amm.methods import get_method, method_names, register, registry
from amm.methods.linear import LinearSettings, register_linear
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
    "karcher",
    "mean",
    "model_stock",
    "optmerge",
    "ram",
    "ridge",
    "sce",
    "slerp",
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
    with pytest.raises(InputError, match=r"'wudy'. Did you mean 'wudi'\? Allowed: aim, amm, dare"):
        get_method("wudy")


def test_statistics_need_a_place_to_be_handed_on_in():
    with pytest.raises(ValueError, match="statistics need elementwise=True and place=True"):
        register("toy", settings=ToySettings, tensors="all", statistics=lambda blocks, s: None)(toy)
    with pytest.raises(ValueError, match="a kernel needs elementwise"):
        register("toy", settings=ToySettings, tensors="all", kernel=get_method("mean").kernel)(toy)


def test_a_method_of_linear_layers_has_their_settings():
    with pytest.raises(ValueError, match='tensors="linear" needs LinearSettings'):
        register("toy", settings=ToySettings, tensors="linear")(toy)


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


def test_tensors_are_merged_as_a_merge_of_models_does():
    vectors = draw((3, 8, 6), 0)
    settings = get_method("ties").settings(density=0.3, scale=0.5)
    merged = amm.merge_tensors("ties", vectors, density=0.3, scale=0.5)
    assert torch.equal(merged, in_blocks("ties", vectors, settings, 8))


def test_what_is_random_depends_on_the_name_of_the_tensor():
    vectors = draw((2, 8, 6), 0)
    merged = [amm.merge_tensors("dare", vectors, name=name) for name in ("a", "a", "b")]
    assert torch.equal(merged[0], merged[1]) and not torch.equal(merged[0], merged[2])
    assert torch.equal(merged[2], in_blocks("dare", vectors, get_method("dare").settings(), 8, "b"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tis", torch.ones(2, 3, 4)), "Did you mean 'ties'"),
        (("tsv", torch.ones(2, 3)), r"K × out × in, not \(2, 3\)"),
        (("mean", torch.ones(2, 3).bfloat16()), "float32 or float64"),
        (("mean", torch.ones(0, 3)), "at least one"),
    ],
)
def test_tensors_that_no_method_merges_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        amm.merge_tensors(*arguments)


def test_a_wrong_setting_is_answered_with_the_right_ones():
    with pytest.raises(InputError, match="parameters of method 'ties': unknown key 'densty'"):
        amm.merge_tensors("ties", torch.ones(2, 3, 4), densty=0.3)


def test_a_method_of_linear_layers_gets_what_moved_and_gives_it_back_scaled_in_its_dtype():
    seen = []

    @register_linear("toy", settings=LinearSettings)
    def toy(vectors, settings):
        seen.append((len(vectors), torch.get_float32_matmul_precision()))
        return vectors.sum(0, dtype=torch.float64)

    vectors = draw((2, 3, 4), 0).float()
    vectors[1] = 0
    torch.set_float32_matmul_precision("medium")
    try:
        merged = amm.merge_tensors("toy", vectors, scale=2.0)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [(1, "highest")]
    assert torch.equal(merged, 2 * vectors[0])
    assert not amm.merge_tensors("toy", 0 * vectors).any() and len(seen) == 1
