"""RPAM's merge: a share of the way from one model to the other, of any granularity."""

import pytest
import torch
from method_cases import draw
from pico_models import SHAPES, load_folder
from safetensors.torch import save_file

import amm
from amm.checkpoints.keys import common_name
from amm.engines import job
from amm.errors import InputError


def coefficients(file, granularity):
    generator = torch.Generator().manual_seed(0)
    found = {
        name: torch.rand(shape if granularity == "element" else (), generator=generator)
        for name, shape in SHAPES.items()
    }
    save_file({common_name(name): value for name, value in found.items()}, file)
    return found


@pytest.mark.parametrize("granularity", ["tensor", "element"])
def test_every_tensor_goes_its_own_share_of_the_way(pico, tmp_path, monkeypatch, granularity):
    monkeypatch.setattr(job, "BLOCK_ENTRIES", 64)
    long, (short, _) = pico
    file = tmp_path / "coefficients.safetensors"
    found = coefficients(file, granularity)
    amm.merge(
        long, [short], output=tmp_path / "out", method="rpam", parameters={"coefficients": file}
    )
    start, end, out = map(load_folder, (long, short, tmp_path / "out"))
    for name, weights in out.items():
        step = found[name] * (end[name].float() - start[name].float())
        assert torch.equal(weights, (start[name].float() + step).to(weights.dtype)), name


def test_the_ends_of_the_way_are_the_two_models():
    step = draw((1, 3, 4), 0)
    assert not amm.merge_tensors("rpam", step, table=torch.zeros(())).any()
    assert torch.equal(amm.merge_tensors("rpam", step, table=torch.ones(())), step[0])


def test_a_tensor_without_a_coefficient_is_named(pico, tmp_path):
    long, (short, _) = pico
    file, (first, *_) = tmp_path / "coefficients.safetensors", SHAPES
    save_file({common_name(name): torch.ones(()) for name in SHAPES if name != first}, file)
    with pytest.raises(InputError, match=f"nothing for {first}; calibrate with the models"):
        amm.merge(
            long, [short], output=tmp_path / "out", method="rpam", parameters={"coefficients": file}
        )
