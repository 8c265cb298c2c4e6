"""RPAM's alignment: the loss by hand, layers that reach their target, order, resuming."""

import copy
import math

import pytest
import torch
from calibration_cases import write_questions
from torch import nn

from amm.calibration.alignment import (
    AlignmentSettings,
    Sample,
    align,
    align_layer,
    alignment_loss,
)
from amm.calibration.models import encode
from amm.calibration.questions import read_questions


def test_the_loss_is_the_definition_in_plain_python():
    torch.manual_seed(0)
    shapes = [(1, 3, 4), (1, 5, 4), (1, 2, 4)]
    z, positive, negative = ([torch.randn(shape) for shape in shapes] for _ in range(3))

    def cosine(a, b):
        a, b = a[0].mean(dim=0).tolist(), b[0].mean(dim=0).tolist()
        inner = sum(x * y for x, y in zip(a, b, strict=True))
        return inner / math.hypot(*a) / math.hypot(*b)

    expected = 0.0
    for i in range(3):
        expected += float(((z[i] - positive[i]) ** 2).sum())
        near = math.exp(cosine(z[i], positive[i]) / 0.2)
        far = sum(math.exp(cosine(z[i], negative[j]) / 0.2) for j in range(3))
        expected += 7 * -math.log(near / (near + far))
    assert float(alignment_loss(z, positive, negative, 7, 0.2)) == pytest.approx(expected, 1e-5)


def layers(seed):
    torch.manual_seed(seed)
    return nn.Linear(6, 6), nn.Linear(6, 6)


@pytest.mark.parametrize("granularity", ["tensor", "layer", "element"])
@pytest.mark.parametrize("label", ["long", "short"])
def test_a_layer_goes_to_the_model_whose_outputs_it_shall_have(granularity, label):
    long, short = layers(0)
    start, end = dict(long.named_parameters()), dict(short.named_parameters())
    start, end = ({k: v.detach() for k, v in each.items()} for each in (start, end))
    samples = []
    for _ in range(12):
        x = torch.randn(1, 3, 6)
        outputs = {"long": long(x).detach(), "short": short(x).detach()}
        positive = outputs.pop(label)
        samples.append(Sample(((x,), {}), positive, *outputs.values()))
    settings = AlignmentSettings(
        granularity=granularity, learning_rate=0.02, epochs=60, contrast=0, batch=4
    )
    step = {name: end[name] - start[name] for name in start}
    found = align_layer(copy.deepcopy(long), start, step, samples, settings)
    for name, alpha in found.items():
        assert alpha.shape == (start[name].shape if granularity == "element" else ())
        target = float(label == "short") * step[name]
        torch.testing.assert_close(alpha * step[name], target, atol=0.02, rtol=0)
    if granularity == "layer":
        assert len({float(alpha) for alpha in found.values()}) == 1


@pytest.fixture(scope="module")
def pair(vision_model, other_folder, tmp_path_factory):
    """Two vision-language models, and what they get for three questions."""
    model, processor = vision_model
    other = type(model).from_pretrained(other_folder).eval().requires_grad_(False)
    file = write_questions(tmp_path_factory.mktemp("questions") / "q.parquet", [3, 90, 200])
    return model, other, [encode(processor, q, None, "cpu") for q in read_questions(file)]


QUICK = AlignmentSettings(epochs=1, learning_rate=0.01, batch=2)


def test_layers_are_aligned_in_order_and_only_theirs_are(pair):
    model, other, inputs = pair
    before = copy.deepcopy(model.state_dict())
    found = list(align(model, other, inputs, ["long", "short", "long"], QUICK))
    assert [(number, count) for number, count, _ in found] == [(1, 3), (2, 3), (3, 3)]
    for number, _, alphas in found:
        prefix = f"model.language_model.layers.{number - 1}."
        assert set(alphas) == {n for n, _ in model.named_parameters() if n.startswith(prefix)}
        assert any(float(alpha) != 0.5 for alpha in alphas.values())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_later_layer_sees_the_merged_ones_before_it(pair):
    """With the first layer's α given, the others are those of a run that found them."""
    model, other, inputs = pair
    labels = ["long", "short", "long"]
    (_, _, first), *rest = align(model, other, inputs, labels, QUICK)
    _, *resumed = align(model, other, inputs, labels, QUICK, done=first)
    other_first = {name: alpha + 1 for name, alpha in first.items()}
    _, *moved = align(model, other, inputs, labels, QUICK, done=other_first)
    for (_, _, one), (_, _, same) in zip(rest, resumed, strict=True):
        assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(moved[0][2][name], alpha) for name, alpha in rest[0][2].items())
