"""The merge files: one for each method of the table, all of its settings written down."""

import pytest
import yaml

from amm import load_config
from amm.methods import get_method, method_names
from examples.tiny_r1v.table import MERGES, METHODS, SINGLE_MODEL


def test_every_method_of_the_table_is_one_of_amms():
    assert set(METHODS) <= set(method_names())
    assert set(SINGLE_MODEL) == set(METHODS) - {"emr"}


@pytest.mark.parametrize("name", METHODS)
def test_the_file_is_a_merge_of_the_three_experts_by_its_method(name):
    config = load_config(MERGES / f"{name}.yaml")
    assert config.method == name
    assert config.base == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert [expert.path.parent.name for expert in config.experts] == [
        "lipo-math",
        "lipo-structure",
        "lipo-ocr",
    ]
    config.method_settings()


@pytest.mark.parametrize("name", METHODS)
def test_values_are_the_methods_own_defaults(name):
    """The files say where each default comes from; another value would need a reason."""
    written = yaml.safe_load((MERGES / f"{name}.yaml").read_text()).get("parameters", {})
    assert get_method(name).settings(**written) == get_method(name).settings()


@pytest.mark.parametrize("name", METHODS)
def test_every_value_carries_its_origin(name):
    text = (MERGES / f"{name}.yaml").read_text()
    _, _, parameters = text.partition("\nparameters:")
    for line in parameters.splitlines()[1:]:
        assert any(label in line for label in ("[V]", "[I]", "[D]", "[ours]")), line
