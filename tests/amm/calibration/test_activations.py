"""Mean magnitudes beside a plain computation by hand."""

import torch
from calibration_cases import write_questions
from torch import nn

from amm.calibration.activations import mean_magnitudes
from amm.calibration.models import encode
from amm.calibration.questions import read_questions


def test_they_are_means_over_all_positions_of_all_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.LayerNorm(2))
    model.append(nn.Identity())
    batches = [torch.randn(1, 5, 4), torch.randn(2, 3, 4), torch.randn(7, 4)]
    found = mean_magnitudes(model, ({"input": batch} for batch in batches))
    rows = torch.cat([batch.reshape(-1, 4) for batch in batches])
    torch.testing.assert_close(found["0.weight"], rows.abs().mean(dim=0))
    torch.testing.assert_close(found["2.weight"], model[:2](rows).abs().mean(dim=0).detach())
    assert set(found) == {"0.weight", "2.weight"}
    assert not model[0]._forward_pre_hooks


def test_a_layer_that_nothing_reached_is_left_out():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    assert set(mean_magnitudes(Branch(), [{"x": torch.ones(1, 2)}])) == {"used.weight"}


def test_every_linear_layer_of_a_vision_language_model_is_measured(vision_model, tmp_path):
    model, processor = vision_model
    questions = read_questions(write_questions(tmp_path / "q.parquet", [3, 200]))
    found = mean_magnitudes(model, [encode(processor, q, "8", "cpu") for q in questions])
    linear = {
        f"{name}.weight": module.in_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert {name: len(value) for name, value in found.items()} == linear
    assert all((value >= 0).all() and value.any() for value in found.values())
