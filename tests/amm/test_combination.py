"""Gram matrices, and what coefficients of weights add to the base."""

import torch
from hypothesis import given
from method_cases import close, draw, seeds, shapes

from amm.methods.combination import from_weights, gram, of_weights
from amm.methods.registry import TensorBlocks


@given(shapes, seeds)
def test_the_gram_matrix_is_summed_over_blocks_and_goes_over_to_weights(shape, seed):
    models = draw((1 + shape[0], *shape[1:]), seed)
    flat = models.flatten(1)
    products = gram(TensorBlocks(models, 1, base=True))
    close(products, flat @ flat.T)
    weights = torch.cat([flat[:1], flat[:1] + flat[1:]])
    close(of_weights(products), weights @ weights.T)
    coefficients = draw((1 + shape[0],), seed + 1)
    close(from_weights(coefficients) @ flat, coefficients @ weights - flat[0])
