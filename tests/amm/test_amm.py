"""AMM against its definition, written down naively, and the identities that it must satisfy."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amm.methods.amm import AmmSettings, amm, orthogonal_part, span_projector
from amm.methods.descent import Interference, common_rms
from amm.methods.wudi import WudiSettings, wudi

shapes = st.sampled_from([(2, 3, 11), (3, 7, 5), (2, 6, 6), (3, 1, 4)])
seeds = st.integers(0, 2**16)
PLAIN = {"alpha": "uniform", "beta": "uniform", "penalty_weight": 0.0}


def exact(**parameters):
    """Settings of the path as the formula has it: every step by itself."""
    return AmmSettings(stride=1, beta_every=1, precision="highest", **parameters)


def draw(shape, seed, rms=1.0):
    generator = torch.Generator().manual_seed(seed)
    return rms * torch.randn(shape, generator=generator, dtype=torch.float64)


def close(actual, expected, relative):
    assert (actual - expected).norm() <= relative * expected.norm()


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)


def naive_penalty(gradient, vectors, kind):
    """R by its definition, P by least squares."""
    if kind == "per_task":
        parts = [gradient - (gradient * t).sum() / t.square().sum() * t for t in vectors]
        return sum(part.square().sum() for part in parts)
    basis = vectors.flatten(1).T
    coefficients = torch.linalg.pinv(basis) @ gradient.flatten()
    return (gradient.flatten() - basis @ coefficients).square().sum()


def naive_amm(vectors, settings):
    """The formulas of amm.methods.amm, with autograd and torch's Adam."""
    unit = vectors.square().mean().sqrt()
    vectors = vectors / unit
    count, norms = len(vectors), vectors.flatten(1).norm(dim=1)
    alpha = {
        "norm": norms,
        "squared_norm": norms**2,
        "inverse_norm": 1 / norms,
        "uniform": torch.ones_like(norms),
    }[settings.alpha]
    alpha = alpha / alpha.sum()
    others = [
        torch.stack([cosine(vectors[i], vectors[j]) for j in range(count) if j != i]).mean()
        for i in range(count)
    ]
    tau = vectors.sum(0).clone().requires_grad_()
    adam = torch.optim.Adam([tau], lr=settings.lr, eps=1e-5)
    for _ in range(settings.steps):
        losses = torch.stack([((tau - t) @ t.T).square().sum() / t.square().sum() for t in vectors])
        cosines = torch.stack([cosine(tau, t) for t in vectors])
        score = {
            "softmax_cos": cosines,
            "mean_cos_others": torch.stack(others),
            "neg_loss": -losses / losses.mean(),
            "uniform": torch.zeros_like(norms),
        }[settings.beta]
        beta = torch.softmax(score / settings.temperature, 0).detach()
        objective = count**2 * (alpha * beta * losses).sum()
        (gradient,) = torch.autograd.grad(objective, tau, create_graph=True)
        if settings.penalty_weight and settings.penalty != "projection":
            unit_of_lambda = tau.shape[1] / (count**2 * (alpha * beta).sum())
            penalty = naive_penalty(gradient, vectors, settings.penalty)
            objective = objective + settings.penalty_weight * unit_of_lambda * penalty
        adam.zero_grad()
        objective.backward()
        before = tau.detach().clone()
        adam.step()
        if settings.penalty == "projection":
            basis = vectors.flatten(1).T
            update = (tau.detach() - before).flatten()
            with torch.no_grad():
                tau.copy_(before + (basis @ (torch.linalg.pinv(basis) @ update)).view_as(tau))
    return settings.scale * unit * tau.detach()


@pytest.mark.parametrize("shape", [(2, 3, 11), (3, 7, 5)])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        PLAIN,
        {"alpha": "squared_norm", "temperature": 0.3},
        {"alpha": "inverse_norm", "beta": "mean_cos_others"},
        {"beta": "neg_loss", "penalty_weight": 1.0},
        {"penalty": "per_task"},
        {"penalty": "projection", "scale": 0.7},
    ],
)
def test_follows_the_naive_definition(shape, parameters):
    vectors = draw(shape, 5, 1e-3)
    vectors[0] *= 3
    settings = exact(steps=40, **parameters)
    close(amm(vectors, settings), naive_amm(vectors, settings), 1e-8)


@given(shapes, seeds)
def test_uniform_weights_without_penalty_are_wudi(shape, seed):
    vectors = draw(shape, seed, 1e-4)
    close(amm(vectors, AmmSettings(**PLAIN)), wudi(vectors, WudiSettings()), 1e-9)


@given(st.sampled_from([(1, 3, 9), (1, 9, 3)]), seeds, st.sampled_from([1e-30, 1e-5, 1.0]))
def test_one_expert_gives_that_expert_exactly(shape, seed, rms):
    vectors = draw(shape, seed, rms).float()
    assert torch.equal(amm(vectors, AmmSettings()), vectors[0])
    assert torch.equal(wudi(vectors, WudiSettings()), vectors[0])


@given(seeds, st.integers(2, 3), st.sampled_from([torch.float32, torch.float64]))
def test_orthogonal_row_spaces_give_the_sum_and_no_loss(seed, count, dtype):
    basis, _ = torch.linalg.qr(draw((12, 12), seed))
    parts = basis.split(4)[:count]
    vectors = torch.stack([draw((5, 4), seed + i) @ part for i, part in enumerate(parts, 1)])
    vectors = vectors.to(dtype)
    tau = amm(vectors, AmmSettings())
    assert torch.equal(tau, vectors.sum(0))
    layer, tau = Interference(vectors.double()), tau.double()
    assert layer.losses(tau).sum() < 1e-10 * layer.losses(torch.zeros_like(tau)).sum()


@pytest.mark.parametrize("run", [partial(amm, settings=exact(steps=n)) for n in (300, 2000)])
def test_equal_experts_approach_that_expert_as_the_steps_allow(run):
    """The sum, 2τ, is farther away than 300 steps of 0.01 RMS reach: measured, not hidden."""
    expert = draw((24, 6), 0)
    away = (run(torch.stack([expert, expert])) - expert).norm() / expert.norm()
    assert 0.05 < away < 0.6 if run.keywords["settings"].steps == 300 else away < 1e-2


@pytest.mark.parametrize("seed", range(2))
def test_equal_experts_with_few_rows_give_that_expert_on_its_row_space(seed):
    """Outside the row space no loss sees what Adam's entry-wise steps leave behind."""
    expert = draw((4, 12), seed)
    tau = amm(torch.stack([expert, expert]), exact(steps=2000))
    close(tau @ expert.T, expert @ expert.T, 1e-2)
    assert (tau - expert).norm() > 0.1 * expert.norm()


@given(shapes, seeds, st.randoms(use_true_random=False))
def test_order_of_experts_does_not_matter(shape, seed, random):
    order = list(range(shape[0]))
    random.shuffle(order)
    vectors = draw(shape, seed)
    close(amm(vectors[order], AmmSettings()), amm(vectors, AmmSettings()), 1e-7)


@given(shapes, seeds, st.sampled_from([2.0**-20, 1e-5, 3.0, 1e6]))
def test_scaling_the_experts_scales_the_merge(shape, seed, factor):
    vectors = draw(shape, seed)
    for run, settings in ((amm, AmmSettings()), (wudi, WudiSettings())):
        close(run(factor * vectors, settings), factor * run(vectors, settings), 1e-7)


@given(shapes, seeds)
def test_zero_experts_change_nothing(shape, seed):
    vectors = draw(shape, seed)
    with_zero = torch.cat([torch.zeros_like(vectors[:1]), vectors])
    assert torch.equal(amm(with_zero, AmmSettings()), amm(vectors, AmmSettings()))
    assert torch.equal(wudi(with_zero, WudiSettings()), wudi(vectors, WudiSettings()))


@pytest.mark.parametrize(
    "run", [lambda t: amm(t, AmmSettings()), lambda t: wudi(t, WudiSettings())]
)
def test_nothing_moved_gives_zero(run):
    assert torch.equal(run(torch.zeros(2, 3, 4)), torch.zeros(3, 4))


def test_opposite_experts_have_no_direction_and_no_nan():
    expert = draw((5, 5), 0)
    for beta in ("softmax_cos", "neg_loss"):
        assert amm(torch.stack([expert, -expert]), AmmSettings(beta=beta)).isfinite().all()


@given(shapes, seeds, st.sampled_from(["span", "per_task"]))
def test_gradient_of_the_penalty_is_autograds(shape, seed, kind):
    vectors, weights = draw(shape, seed), draw(shape[:1], seed + 1).abs()
    layer = Interference(vectors)
    tau = draw(shape[1:], seed + 2).requires_grad_()
    loss = sum(w * ((tau - t) @ t.T).square().sum() for w, t in zip(weights, vectors, strict=True))
    (gradient,) = torch.autograd.grad(loss, tau, create_graph=True)
    (expected,) = torch.autograd.grad(naive_penalty(gradient, vectors, kind), tau)
    off_span = orthogonal_part(vectors, vectors.flatten(1).norm(dim=1), kind)
    actual = 4 * layer.curvature(weights)(off_span(gradient.detach(), vectors))
    assert (actual - expected).abs().max() <= 1e-8 * gradient.detach().abs().max() + 1e-8


@given(shapes, seeds)
def test_projector_is_one_also_for_dependent_task_vectors(shape, seed):
    vectors = draw(shape, seed)
    vectors = torch.cat([vectors, vectors[:1], 2 * vectors[-1:]])
    project, x = span_projector(vectors), draw(shape[1:], seed + 1)
    torch.testing.assert_close(project(project(x)), project(x))
    torch.testing.assert_close(project(vectors[-1]), vectors[-1])
    assert (project(x) * (x - project(x))).sum().abs() < 1e-8


def test_projection_never_leaves_the_span():
    vectors = draw((3, 6, 5), 0)
    tau = amm(vectors, AmmSettings(penalty="projection"))
    torch.testing.assert_close(span_projector(vectors)(tau), tau)
    assert not torch.allclose(tau, vectors.sum(0), rtol=1e-2)


def test_penalty_weight_means_the_same_at_every_size_and_scale():
    """λ's unit is in/tr C: repeating the rows multiplies C, L_w and R alike and moves nothing."""
    vectors = draw((2, 6, 5), 0)
    repeated = vectors.repeat(1, 3, 1)
    close(amm(repeated, AmmSettings()), amm(vectors, AmmSettings()).repeat(3, 1), 1e-3)
    assert common_rms(repeated) == pytest.approx(common_rms(vectors))


def test_inherent_weights_follow_the_norms():
    """A penalty-free step count of 1 shows G's sign only, so compare after some steps."""
    vectors = draw((2, 8, 8), 0)
    vectors[1] *= 4
    results = {
        alpha: Interference(vectors).losses(
            amm(vectors, AmmSettings(alpha=alpha, penalty_weight=0, steps=2000))
        )
        for alpha in ("squared_norm", "norm", "uniform", "inverse_norm")
    }
    share = [float(losses[1] / losses.sum()) for losses in results.values()]
    assert share == sorted(share)


def test_float32_follows_float64():
    vectors = draw((3, 32, 24), 0, 1e-5)
    settings = AmmSettings(precision="highest")
    close(amm(vectors.float(), settings).double(), amm(vectors, settings), 1e-4)


@pytest.mark.parametrize("shape", [(3, 64, 24), (3, 24, 64), (3, 32, 96)])
def test_defaults_end_near_the_path_of_the_formula(shape):
    """A tenth of the evaluations, β held, products in bf16 where there are units for them."""
    vectors = draw(shape, 0, 1e-5)
    start, end = vectors.sum(0), amm(vectors, exact())
    away = (amm(vectors.float(), AmmSettings()).double() - end).norm()
    assert away < 0.1 * (end - start).norm()


def test_inputs_are_left_alone():
    vectors = draw((2, 4, 4), 0)
    before = vectors.clone()
    amm(vectors, AmmSettings())
    assert torch.equal(vectors, before)
