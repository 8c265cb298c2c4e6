"""The grid holds every method that can take part, and settings that they have."""

import pytest
import torch

import amm
from amm.methods import method_names
from examples.evidence.merging.grid import PUBLISHED, WITHOUT, choices, scaled

NOT_HERE = {
    "aim": "takes a table of activations",
    "rpam": "takes a table of coefficients",
    "emr": "makes a model for each task",
    "slerp": "merges two experts",
}


def test_every_method_that_merges_any_number_by_weights_alone_takes_part():
    assert {merge.method for merge in PUBLISHED} == set(method_names()) - set(NOT_HERE)


@pytest.mark.parametrize(
    "merge",
    [*(each for merge in PUBLISHED for each in scaled(merge)), *choices(), *WITHOUT],
    ids=lambda merge: merge.name,
)
def test_a_method_has_the_settings_it_is_given(merge):
    vectors, base = drawn()
    merged = amm.merge_tensors(merge.method, vectors, base=base, **merge.parameters)
    assert merged.shape == base.shape and merged.isfinite().all()


def test_without_all_three_ingredients_amm_is_wudi():
    vectors, _ = drawn()
    nothing = {key: value for merge in WITHOUT for key, value in merge.parameters.items()}
    merged = amm.merge_tensors("amm", vectors, **nothing)
    torch.testing.assert_close(merged, amm.merge_tensors("wudi", vectors), rtol=1e-4, atol=1e-5)


def drawn():
    torch.manual_seed(0)
    return torch.randn(3, 6, 5), torch.randn(6, 5)
