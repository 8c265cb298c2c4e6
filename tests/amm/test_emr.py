"""EMR against a loop written from the paper, and the way back to each expert."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, seeds
from pico_models import save_folder
from safetensors.torch import save_file

from amm.errors import InputError
from amm.methods.emr import SIDE_FILE, emr, restore, side_entries, side_tensors
from amm.settings import Settings

NONE = Settings()
SHAPES = {"a.weight": (6, 11), "b.bias": (5,), "c.conv": (3, 2, 3), "d.scalar": ()}


def reference(vectors):
    """Entry by entry: the elected sign with the largest magnitude that has it."""
    merged = []
    for column in vectors.reshape(len(vectors), -1).T.tolist():
        mass = sum(column)
        agree = [value for value in column if value * mass > 0]
        merged.append(max(agree, key=abs, default=0.0))
    return torch.tensor(merged, dtype=vectors.dtype).view(vectors.shape[1:])


def merge(folder, base, experts, dtype=torch.float32, rows=4):
    """What the engine leaves: merged weights and the side file, block by block."""
    merged, side = {}, {}
    for name, start in base.items():
        vectors = torch.stack([expert[name] - start for expert in experts])
        blocks = vectors.split(rows, dim=1) if vectors.dim() > 1 else [vectors]
        taus = [emr(block, NONE) for block in blocks]
        merged[name] = (start + (torch.cat(taus) if start.dim() else taus[0])).to(dtype)
        parts = [side_tensors(b, t, NONE) for b, t in zip(blocks, taus, strict=True)]
        entries = side_entries(name, tuple(start.shape), len(experts))
        for entry, part in zip(entries, zip(*parts, strict=True), strict=True):
            side[entry.name] = torch.cat(part)
            assert (tuple(side[entry.name].shape), part[0].dtype) == (entry.shape, entry.dtype)
    save_folder(folder, merged)
    save_file(side, folder / SIDE_FILE)
    return folder


def weights(seed, rms, base=None):
    added = {
        name: draw(shape, seed + i, rms).float() for i, (name, shape) in enumerate(SHAPES.items())
    }
    return added if base is None else {name: base[name] + added[name] for name in added}


@pytest.fixture
def models(tmp_path):
    base = weights(0, 1.0)
    experts = [weights(seed, 1e-2, base) for seed in (10, 20, 30)]
    save_folder(tmp_path / "base", base)
    return base, experts, merge(tmp_path / "merged", base, experts)


@given(seeds, st.integers(1, 4))
def test_the_unified_model_is_the_papers(seed, count):
    vectors = draw((count, 6, 5), seed)
    assert torch.equal(emr(vectors, NONE), reference(vectors))


def test_each_expert_is_rescaled_and_masked(models, tmp_path):
    """λ_i over the whole model, as in the paper, from plain sums."""
    base, experts, folder = models
    deltas = [{k: (expert[k] - base[k]).double() for k in base} for expert in experts]
    unified = {k: reference(torch.stack([delta[k] for delta in deltas])) for k in base}
    for i, delta in enumerate(deltas):
        masks = {k: delta[k] * unified[k] > 0 for k in base}
        above = sum(float(delta[k].abs().sum()) for k in base)
        below = sum(float((masks[k] * unified[k]).abs().sum()) for k in base)
        restored = dict(restore(folder, i, tmp_path / "base"))
        assert restored.keys() == base.keys()
        for k in base:
            expected = base[k] + above / below * masks[k] * unified[k]
            torch.testing.assert_close(restored[k].double(), expected, rtol=0, atol=1e-6)


def test_blocks_leave_the_side_file_of_the_whole_bit_for_bit():
    vectors = draw((3, 7, 1001), 0).float()
    tau = emr(vectors, NONE)
    whole = side_tensors(vectors, tau, NONE)
    parts = [side_tensors(vectors[:, a:b], tau[a:b], NONE) for a, b in ((0, 1), (1, 5), (5, 7))]
    for tensor, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(tensor, torch.cat(pieces))


def test_one_expert_is_restored_exactly(tmp_path):
    base = {name: tensor.round() for name, tensor in weights(0, 4.0).items()}
    expert = {name: tensor + 0.25 for name, tensor in base.items()}
    save_folder(tmp_path / "base", base)
    folder = merge(tmp_path / "merged", base, [expert])
    for name, tensor in restore(folder, 0, tmp_path / "base"):
        assert torch.equal(tensor, expert[name])


def test_an_expert_that_equals_the_base_is_restored_as_the_base(tmp_path):
    base = weights(0, 1.0)
    save_folder(tmp_path / "base", base)
    folder = merge(tmp_path / "merged", base, [weights(10, 1e-2, base), base])
    for name, tensor in restore(folder, 1, tmp_path / "base"):
        assert torch.equal(tensor, base[name])


def test_the_base_is_found_in_the_provenance(models, tmp_path):
    _, _, folder = models
    with pytest.raises(InputError, match="no provenance.json that names the base; give base"):
        next(restore(folder, 0))
    content = {"config": {"base": str(tmp_path / "base")}}
    (folder / "provenance.json").write_text(json.dumps(content))
    for (_, found), (_, given_) in zip(
        restore(folder, 1), restore(folder, 1, tmp_path / "base"), strict=True
    ):
        assert torch.equal(found, given_)


def test_wrong_expert_and_wrong_folder_are_named(models, tmp_path):
    _, _, folder = models
    with pytest.raises(InputError, match="experts 0 to 2; there is no 3"):
        next(restore(folder, 3, tmp_path / "base"))
    with pytest.raises(InputError, match="emr.masks can't be read"):
        next(restore(tmp_path / "base", 0))


def test_tensors_that_were_not_merged_are_those_of_the_folder(models, tmp_path):
    base, experts, folder = models
    counts = {"e.counts": torch.arange(3)}
    save_file(dict(restore(folder, 0, tmp_path / "base")) | counts, folder / "model.safetensors")
    save_file(base | counts, tmp_path / "base" / "model.safetensors")
    assert torch.equal(dict(restore(folder, 0, tmp_path / "base"))["e.counts"], torch.arange(3))


def test_cancelling_entries_are_left_as_in_the_base():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert not emr(vectors, NONE).any()
    masks, _ = side_tensors(vectors[:, :, None], emr(vectors, NONE)[:, None], NONE)
    assert not masks.any()


def test_scaling_and_order():
    vectors = draw((3, 5, 4), 0)
    close(emr(3 * vectors, NONE), 3 * emr(vectors, NONE))
    assert torch.equal(emr(vectors.flip(0), NONE), emr(vectors, NONE))
