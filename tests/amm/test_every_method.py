"""What holds for every merge method: scale, order, and experts that moved little or nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, in_blocks, seeds, shapes

from amm.methods import Place, get_method, method_names
from amm.methods.registry import TensorBlocks

MATRIX = ["amm", "iso_c", "optmerge", "ridge", "tsv", "wudi", "wudi_spectral"]
ELEMENTWISE = [
    "dare",
    "della",
    "emr",
    "mean",
    "model_stock",
    "ram",
    "sce",
    "task_arithmetic",
    "ties",
]
ON_WEIGHTS = ["karcher", "slerp"]
"""They go along arcs between weights: the size of the task vectors beside the base's counts."""
every = pytest.mark.parametrize("name", MATRIX + ELEMENTWISE)


PARAMETERS = {
    "amm": {"steps": 20},
    "wudi": {"steps": 20},
    "ram": {"relative": True, "threshold": 0.3, "boost": 1.2},
}


def run(name, vectors):
    parameters = PARAMETERS.get(name, {})
    settings = get_method(name).settings(**parameters)
    return in_blocks(name, vectors, settings, vectors.shape[1])


def test_they_are_for_what_they_say():
    for name in MATRIX:
        assert get_method(name).tensors == "linear" and not get_method(name).elementwise
    for name in ELEMENTWISE + ON_WEIGHTS:
        assert get_method(name).tensors == "all" and get_method(name).elementwise
    assert {*MATRIX, *ELEMENTWISE, *ON_WEIGHTS} <= set(method_names())


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if get_method(n).kernel])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(shapes, seeds)
def test_a_kernel_gives_what_the_function_does_bit_for_bit(name, dtype, shape, seed):
    method, vectors = get_method(name), draw(shape, seed).to(dtype)
    if method.base:
        vectors = draw((1 + shape[0], *shape[1:]), seed).to(dtype)
    settings = method.settings(
        **({"scale": 0.3} if "scale" in method.settings.model_fields else {})
    )
    place = Place("w", 0, method.measure(TensorBlocks(vectors, base=method.base), settings))
    expected = method.function(vectors, settings, *([place] if method.place else []))
    assert torch.equal(method(vectors, settings, place), expected)


@every
@given(shapes, seeds, st.sampled_from([2.0**-20, 1e-5, 3.0, 1e6]))
def test_scaling_the_experts_scales_the_merge(name, shape, seed, factor):
    vectors = draw(shape, seed)
    close(run(name, factor * vectors), factor * run(name, vectors), 1e-6)


@every
@pytest.mark.parametrize("factor", [1e-35, 1e-25, 1e25, 1e35])
def test_float32_is_no_limit_to_the_scale(name, factor):
    vectors = draw((3, 4, 12), 0)
    merged = run(name, (factor * vectors).float()).double()
    close(merged, factor * run(name, vectors), 1e-4)


@pytest.mark.parametrize("name", [n for n in MATRIX + ELEMENTWISE if n not in ("dare", "della")])
@given(shapes, seeds, st.randoms(use_true_random=False))
def test_order_of_experts_does_not_matter(name, shape, seed, random):
    """To `dare` and `della` it does: each place in the list has drops of its own."""
    order = list(range(shape[0]))
    random.shuffle(order)
    vectors = draw(shape, seed)
    close(run(name, vectors[order]), run(name, vectors), 1e-6)


@pytest.mark.parametrize("name", [n for n in MATRIX + ELEMENTWISE if n not in ("mean", "sce")])
@given(shapes, seeds)
def test_an_expert_that_did_not_move_changes_nothing(name, shape, seed):
    """In `mean` it counts, the result is the mean of the experts' weights; and in the variances by
    which `sce` selects."""
    vectors = draw(shape, seed)
    with_zero = torch.cat([vectors, torch.zeros_like(vectors[:1])])
    close(run(name, with_zero), run(name, vectors), 1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_moved_gives_zero(name, dtype):
    merged = run(name, torch.zeros(2, 3, 4, dtype=dtype))
    assert torch.equal(merged, torch.zeros(3, 4, dtype=dtype))


@pytest.mark.parametrize(
    "name",
    ["amm", "emr", "karcher", "mean", "model_stock", "optmerge", "ridge", "tsv", "wudi"],
)
@given(shapes, seeds)
def test_one_expert_gives_that_expert(name, shape, seed):
    vectors = draw(shape, seed)[:1]
    close(run(name, vectors), vectors[0], 1e-12)


@every
@given(seeds, st.sampled_from([1e-30, 1e-5, 1.0]), st.sampled_from([(6, 4), (4, 9), (1, 5)]))
def test_dependent_experts_give_finite_weights_in_float32(name, seed, rms, shape):
    """Equal, opposite, doubled, of rank one, and together."""
    expert = draw(shape, seed, rms).float()
    thin = (draw((shape[0], 1), seed) @ draw((1, shape[1]), seed + 1, rms)).float()
    for experts in ([expert] * 3, [expert, -expert], [expert, 2 * expert, thin], [thin, thin]):
        merged = run(name, torch.stack(experts))
        assert merged.dtype == torch.float32 and merged.isfinite().all()


@every
def test_float32_follows_float64(name):
    vectors = draw((3, 24, 32), 0, 1e-5).float()
    close(run(name, vectors).double(), run(name, vectors.double()), 1e-3)


@every
def test_inputs_are_left_alone(name):
    vectors = draw((2, 4, 5), 0)
    before = vectors.clone()
    run(name, vectors)
    assert torch.equal(vectors, before)
