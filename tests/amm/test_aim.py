"""AIM: a merge's step, shortened by column; tables in merges."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, seeds
from pico_models import SHAPES, load_folder
from safetensors.torch import save_file

import amm
from amm.checkpoints.keys import common_name
from amm.errors import InputError
from amm.layers import is_linear

LINEAR = [name for name, shape in SHAPES.items() if is_linear(name, shape)]


def activations(folder, names=LINEAR, seed=0):
    """A table of positive numbers, and what it holds."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.rand(SHAPES[name][1], generator=generator) + 0.1 for name in names}
    file = folder / "activations.safetensors"
    save_file({common_name(name): value for name, value in found.items()}, file)
    return file, found


@given(seeds, st.sampled_from([0.0, 0.2, 0.4, 1.0]), st.sampled_from([1e-30, 1.0, 1e30]))
def test_follows_the_definition_whatever_the_unit_of_the_activations(seed, omega, unit):
    step, activity = draw((1, 4, 7), seed), draw((7,), seed + 1).abs()
    expected = torch.empty(4, 7, dtype=torch.float64)
    for j in range(7):
        expected[:, j] = step[0, :, j] * (1 - activity[j] / max(activity) * (1 - omega))
    close(amm.merge_tensors("aim", step, table=unit * activity, omega=omega), expected)


@given(seeds, st.sampled_from([2.0**-20, 1e-5, 3.0, 1e6]))
def test_a_merge_that_went_further_is_held_back_in_proportion(seed, factor):
    step, activity = draw((1, 4, 7), seed), draw((7,), seed + 1).abs()
    whole = amm.merge_tensors("aim", step, table=activity)
    close(amm.merge_tensors("aim", factor * step, table=activity), factor * whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_omega_one_and_inputs_that_are_never_active_leave_the_merge(dtype):
    step = draw((1, 4, 7), 0).to(dtype)
    assert torch.equal(amm.merge_tensors("aim", step, table=torch.rand(7), omega=1), step[0])
    assert torch.equal(amm.merge_tensors("aim", step, table=torch.zeros(7)), step[0])


def test_a_merge_takes_each_layer_by_its_own_activations_and_leaves_the_rest(pico, tmp_path):
    base, (merged, _) = pico
    file, found = activations(tmp_path, LINEAR[1:])
    aim = {"method": "aim", "parameters": {"activations": str(file), "omega": 0.3}}
    planned = amm.plan(base, [merged], output=tmp_path / "out", **aim)
    assert planned.ok and {kind.rule for kind in planned.kinds} == {"aim", "mean"}
    amm.merge(base, [merged], output=tmp_path / "out", **aim)
    before, after, out = map(load_folder, (base, merged, tmp_path / "out"))
    for name, weights in out.items():
        step = after[name].float() - before[name].float()
        if name in found:
            step = amm.merge_tensors("aim", step[None], table=found[name], omega=0.3)
        assert torch.equal(weights, (before[name].float() + step).to(weights.dtype)), name
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["tables"][0]["path"] == str(file)
    assert len(provenance["tables"][0]["sha256"]) == 64


def test_a_merge_is_not_resumed_with_other_activations(pico, tmp_path):
    base, (merged, _) = pico
    file, _ = activations(tmp_path)
    arguments = {
        "base": base,
        "experts": [merged],
        "output": tmp_path / "out",
        "method": "aim",
        "parameters": {"activations": file},
    }

    class Stop(Exception):
        pass

    def stop(name, done):
        raise Stop

    with pytest.raises(Stop):
        amm.merge(**arguments, progress=stop)
    activations(tmp_path, seed=1)
    with pytest.raises(InputError, match="unfinished merge that isn't this one .*activations.safe"):
        amm.merge(**arguments)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"another.weight": torch.ones(4)}, "nothing for any linear layer"),
        ({common_name(LINEAR[0]): torch.ones(3, 2)}, r"is \[3, 2\].*calibrate with the models"),
        (None, "can't be read|isn't there|No such file|doesn't exist"),
    ],
)
def test_a_table_of_another_model_is_refused(pico, tmp_path, content, said):
    base, (merged, _) = pico
    file = tmp_path / "activations.safetensors"
    if content is not None:
        save_file(content, file)
    with pytest.raises(InputError, match=said):
        amm.merge(
            base,
            [merged],
            output=tmp_path / "out",
            method="aim",
            parameters={"activations": file},
        )


def test_several_experts_are_refused(pico, tmp_path):
    file, _ = activations(tmp_path)
    with pytest.raises(InputError, match="aim starts from a finished merge and has 2 experts"):
        amm.merge(*pico, output=tmp_path / "out", method="aim", parameters={"activations": file})


def test_in_memory_it_needs_its_table():
    with pytest.raises(InputError, match="table"):
        amm.merge_tensors("aim", torch.ones(1, 2, 3))
