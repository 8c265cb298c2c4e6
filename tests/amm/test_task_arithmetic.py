"""Task arithmetic."""

import torch

from amm.methods.task_arithmetic import TaskArithmeticSettings, task_arithmetic


def test_is_the_scaled_sum():
    vectors = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    merged = task_arithmetic(vectors, TaskArithmeticSettings(scale=0.5))
    assert torch.equal(merged, torch.tensor([2.0, -1.0]))


def test_default_is_the_plain_sum():
    vectors = torch.ones(3, 2, 2, 2)
    assert torch.equal(
        task_arithmetic(vectors, TaskArithmeticSettings()), torch.full((2, 2, 2), 3.0)
    )
