"""Weight averaging."""

import torch

from amm.methods.mean import mean
from amm.settings import Settings


def test_is_the_mean_of_all_experts_the_unmoved_ones_too():
    vectors = torch.tensor([[3.0, 6.0], [0.0, 0.0], [0.0, -3.0]])
    assert torch.equal(mean(vectors, Settings()), torch.tensor([1.0, 1.0]))
