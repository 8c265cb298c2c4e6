"""The mathematics: against a slow reference in plain Python, and the properties of the method."""

import itertools
import math
from fractions import Fraction
from statistics import median

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lipo_verl.config import LipoConfig
from lipo_verl.lipo import EPSILON
from lipo_verl.lipo import lipo as of_batch
from lipo_verl.schemes import Responses

checked = settings(deadline=None, derandomize=True, max_examples=100)
thoroughly = settings(checked, max_examples=1000)

PAIRINGS = ("all", "adjacent")
DECAYS = ("linear", "cosine")


def lipo(R, L, truncated=None, correct=None, **chosen):
    """LIPO on (G, n) rewards and lengths."""
    R, L = np.asarray(R, np.float64), np.asarray(L, np.float64)
    truncated = np.zeros(R.shape, bool) if truncated is None else truncated
    correct = R >= 0.5 if correct is None else correct
    (result,), _ = of_batch([Responses(R, L, correct, truncated)], LipoConfig(**chosen))
    return result


def moments(R, w):
    """(mu, sigma, denominator of sigma^2), sums as exact fractions: none of the real rounding."""
    R, w = [Fraction(x) for x in R], [Fraction(x) for x in w]
    mean = sum(a * r for a, r in zip(w, R, strict=True)) / sum(w)
    spread = sum(a * (r - mean) ** 2 for a, r in zip(w, R, strict=True))
    denominator = sum(w) - sum(a * a for a in w) / sum(w)
    return mean, math.sqrt(spread / denominator), float(denominator)


def reference(R, L, **given_settings):
    """One group, read straight from the method: (A, R', w, L_opt), lists of floats."""
    defaults = dict(reward_threshold=0.1, pairing="all", decay="linear", length_threshold=None)
    defaults |= dict(boost=0.1, weight_scale=None, weight_advantage=False, std_floor=0.0)
    defaults |= dict(correct_only=True)
    use = defaults | given_settings
    n = len(R)
    guarded = [use["correct_only"] and r < 0.5 for r in R]
    L_max = use["length_threshold"] or max(L)

    S = [False] * n
    for i in range(n):
        longer = [j for j in range(n) if L[j] > L[i]]
        if use["pairing"] == "adjacent":
            longer = [j for j in longer if L[j] == min(L[k] for k in longer)]
        for j in longer:
            if abs(R[i] - R[j]) < use["reward_threshold"] - 1e-6:
                S[i] = True

    adjusted = []
    for i in range(n):
        if use["decay"] == "linear":
            h = max(0.0, 1 - L[i] / L_max)
        else:
            h = 0.5 * (1 + math.cos(math.pi * min(L[i], L_max) / L_max))
        raised = S[i] and not guarded[i]
        adjusted.append(R[i] + (max(R[i], 0.0) * use["boost"] * h if raised else 0.0))

    optimum = max(2 * min(L), median(L))
    scale = optimum if use["weight_scale"] is None else use["weight_scale"]
    w = [math.exp(-abs(length - optimum) / scale) for length in L]

    mean, sigma, _ = moments(adjusted, w)
    sigma = max(sigma, use["std_floor"])
    A = [float(Fraction(r) - mean) / (sigma + 1e-6) for r in adjusted]
    if use["weight_advantage"]:
        A = [a if g else a * b for a, b, g in zip(A, w, guarded, strict=True)]
    return A, adjusted, w, optimum


rewards = st.one_of(
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 20).map(lambda k: k / 20),
    st.floats(0, 1),
    st.floats(-2, 2),
)
lengths = st.one_of(st.integers(1, 4096), st.sampled_from([1, 7, 8, 64, 65, 512]))
every_setting = st.fixed_dictionaries(
    {},
    optional=dict(
        reward_threshold=st.sampled_from([-1.0, 0.0, 0.05, 0.1, 0.5, 3.0]),
        pairing=st.sampled_from(PAIRINGS),
        decay=st.sampled_from(DECAYS),
        length_threshold=st.one_of(st.none(), st.integers(1, 5000).map(float)),
        boost=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
        weight_scale=st.one_of(st.none(), st.floats(10, 1e6), st.just(math.inf)),
        weight_advantage=st.booleans(),
        std_floor=st.sampled_from([0.0, 0.3]),
    ),
)


def group(reward=rewards, least=2, most=8):
    """(R, L) of one group."""
    return st.integers(least, most).flatmap(
        lambda n: st.tuples(
            st.lists(reward, min_size=n, max_size=n), st.lists(lengths, min_size=n, max_size=n)
        )
    )


@st.composite
def batches(draw):
    """(R, L), each G lists of n."""
    n = draw(st.integers(2, 8))
    groups = draw(st.lists(group(least=n, most=n), min_size=1, max_size=3))
    return [R for R, _ in groups], [L for _, L in groups]


def one(R, L, **kwargs):
    """LIPO to the paper's letter on one group, every result as a list (the optimum: a number)."""
    result = lipo(np.array([R]), np.array([L]), **(dict(correct_only=False) | kwargs))
    return (
        result.advantages[0].tolist(),
        result.shaped[0].tolist(),
        (result.shaped > np.array([R]))[0].tolist(),
        result.weights[0].tolist(),
        result.optimum.item(),
    )


@thoroughly
@given(batches(), every_setting, st.booleans())
def test_equals_the_reference(batch, chosen, correct_only):
    R, L = batch
    chosen["correct_only"] = correct_only
    result = lipo(np.array(R), np.array(L), **chosen)
    for g, (R_g, L_g) in enumerate(zip(R, L, strict=True)):
        A, adjusted, w, optimum = reference(R_g, L_g, **chosen)
        assert result.optimum[g].item() == optimum
        assert result.shaped[g].tolist() == pytest.approx(adjusted, rel=1e-12, abs=1e-14)
        assert result.weights[g].tolist() == pytest.approx(w, rel=1e-12)
        assert result.advantages[g].tolist() == pytest.approx(A, rel=1e-7, abs=1e-7)


def test_worked_example():
    A, adjusted, S, w, optimum = one([1.0, 1.0, 0.0], [10, 20, 30])
    assert S == [True, False, False]
    assert adjusted == pytest.approx([1 + 0.1 * 2 / 3, 1.0, 0.0])
    assert optimum == 20
    assert w == pytest.approx([math.exp(-0.5), 1.0, math.exp(-0.5)])
    assert A[0] > A[1] > 0 > A[2]


# 1. Without the length term


@checked
@given(group(), every_setting, st.sampled_from([dict(reward_threshold=0.0), dict(boost=0.0)]))
def test_no_threshold_or_no_boost_leaves_rewards_alone(members, chosen, off):
    R, L = members
    _, adjusted, *_ = one(R, L, **(chosen | off))
    assert adjusted == R


@thoroughly
@given(group(), st.sampled_from(PAIRINGS))
def test_without_boost_and_weights_it_is_grpo(members, pairing):
    R, L = members
    A, *_ = one(R, L, boost=0.0, weight_scale=math.inf, pairing=pairing)
    scores = np.array(R)
    grpo = (scores - scores.mean()) / (scores.std(ddof=1) + 1e-6)
    assert A == pytest.approx(grpo.tolist(), abs=1e-7)


# 2. Bounds


@checked
@given(group(), every_setting)
def test_boost_is_bounded_and_spares_the_longest(members, chosen):
    R, L = members
    _, adjusted, *_ = one(R, L, **chosen)
    boost = chosen.get("boost", 0.1)
    for reward, length, result in zip(R, L, adjusted, strict=True):
        assert reward <= result <= reward + max(reward, 0) * boost + 1e-12
        if length == max(L) or reward <= 0:
            assert result == reward


# 3. Monotonicity


@checked
@given(group(st.sampled_from([-1.0, 0.0, 0.5, 1.0])), every_setting)
def test_of_equal_rewards_the_shorter_keeps_at_least_as_much(members, chosen):
    R, L = members
    chosen["pairing"] = "all"
    _, adjusted, *_ = one(R, L, **chosen)
    L_max = chosen.get("length_threshold") or max(L)
    on = chosen.get("boost", 0.1) > 0 and chosen.get("reward_threshold", 0.1) > 0
    for i, j in itertools.permutations(range(len(R)), 2):
        if R[i] == R[j] and L[i] < L[j]:
            assert adjusted[i] >= adjusted[j]
            if on and R[i] > 0 and L[i] < L_max:
                assert adjusted[i] > adjusted[j]


@pytest.mark.parametrize(("pairing", "broken"), [("all", 0), ("adjacent", 24)])
def test_adjacent_pairing_breaks_monotonicity_in_24_of_240_pairs(pairing, broken):
    R = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    L = np.broadcast_to(np.arange(1, 7), R.shape)
    adjusted = lipo(R, L, pairing=pairing).shaped
    pairs = violations = 0
    for i, j in itertools.combinations(range(6), 2):
        both = (R[:, i] == 1) & (R[:, j] == 1)
        pairs += int(both.sum())
        violations += int((both & (adjusted[:, i] < adjusted[:, j])).sum())
    assert (violations, pairs) == (broken, 240)


# 4. The boost as a function of length


@pytest.mark.parametrize("decay", DECAYS)
@checked
@given(st.floats(1, 900), st.floats(0, 50))
def test_boost_falls_continuously_to_zero_at_the_bound(decay, length, step):
    def boost(tokens):
        kwargs = dict(decay=decay, length_threshold=500.0, boost=0.5)
        L = np.array([[tokens, 5000.0]])
        return lipo(np.ones((1, 2)), L, **kwargs).shaped[0, 0].item() - 1

    fall = boost(length) - boost(length + step)
    steepest = 0.5 * math.pi / 2 / 500
    assert -1e-12 <= fall <= steepest * step + 1e-12
    if length >= 500:
        assert boost(length) == 0
    elif length < 499:
        assert boost(length) > 0
    assert boost(1e-9) == pytest.approx(0.5)


# 5. The weights


@checked
@given(group(), group(), every_setting)
def test_weights_depend_on_lengths_alone_and_peak_at_the_optimum(members, others, chosen):
    R, L = members
    *_, w, optimum = one(R, L, **chosen)
    *_, w_again, optimum_again = one((others[0] * 4)[: len(L)], L, **chosen)
    assert (w, optimum) == (w_again, optimum_again)
    for weight, length in zip(w, L, strict=True):
        assert 0 < weight <= 1
        if chosen.get("weight_scale") != math.inf:
            assert (weight == 1) == (length == optimum)
        else:
            assert weight == 1


@checked
@given(group())
def test_shortest_never_holds_the_peak(members):
    R, L = members
    *_, w, optimum = one(R, L)
    assert optimum >= 2 * min(L)
    assert w[L.index(min(L))] <= math.exp(-0.5) + 1e-12


# 6. Groups with nothing to compare


@checked
@given(st.integers(2, 9), rewards, lengths, every_setting)
@example(n=3, reward=1 / 3, length=7, chosen={})
def test_equal_responses_get_zero(n, reward, length, chosen):
    A, *_ = one([reward] * n, [length] * n, **chosen)
    assert A == pytest.approx([0.0] * n, abs=1e-8)


@checked
@given(group(st.just(0.0)), every_setting)
def test_all_wrong_gets_zero(members, chosen):
    A, *_ = one(*members, **chosen)
    assert A == [0.0] * len(A)


@checked
@given(st.lists(st.integers(1, 4096), min_size=2, max_size=8, unique=True), every_setting)
def test_of_all_correct_the_shorter_is_preferred(L, chosen):
    chosen |= dict(boost=0.1, reward_threshold=0.1, weight_advantage=False, length_threshold=None)
    A, *_ = one([1.0] * len(L), L, **chosen)
    by_length = [a for _, a in sorted(zip(L, A, strict=True))]
    assert all(a > b for a, b in itertools.pairwise(by_length))


# 7. Order


@checked
@given(batches(), every_setting, st.randoms(use_true_random=False))
def test_order_of_samples_and_groups_does_not_matter(batch, chosen, random):
    R, L = np.array(batch[0]), np.array(batch[1])
    columns, rows = list(range(R.shape[1])), list(range(R.shape[0]))
    random.shuffle(columns)
    random.shuffle(rows)
    straight = lipo(R, L, **chosen)
    shuffled = lipo(R[rows][:, columns], L[rows][:, columns], **chosen)
    np.testing.assert_allclose(
        shuffled.advantages, straight.advantages[rows][:, columns], rtol=1e-7, atol=1e-7
    )
    assert np.array_equal(shuffled.shaped, straight.shaped[rows][:, columns])


# 8. Scale of lengths


@checked
@given(group(), every_setting, st.sampled_from([2, 8, 1024]))
def test_lengths_scaled_together_give_the_same(members, chosen, factor):
    R, L = members
    scaled = dict(chosen)
    for key in ("length_threshold", "weight_scale"):
        if chosen.get(key) is not None:
            scaled[key] = chosen[key] * factor
    A, adjusted, S, w, _ = one(R, L, **chosen)
    assert (A, adjusted, S, w) == one(R, [length * factor for length in L], **scaled)[:4]


# 9. Normalisation


@checked
@given(group(), every_setting, st.one_of(st.none(), st.floats(500, 1e6), st.just(math.inf)))
def test_weighted_mean_is_zero_and_weighted_variance_one(members, chosen, scale):
    chosen |= dict(weight_advantage=False, std_floor=0.0, weight_scale=scale)
    A, adjusted, _, w, _ = one(*members, **chosen)
    _, sigma, denominator = moments(adjusted, w)
    assert sum(a * b for a, b in zip(w, A, strict=True)) == pytest.approx(0, abs=1e-8)
    variance = sum(a * b * b for a, b in zip(w, A, strict=True)) / denominator
    assert variance == pytest.approx((sigma / (sigma + EPSILON)) ** 2, rel=1e-6, abs=1e-9)
    if sigma > 0.01:
        assert variance == pytest.approx(1, abs=2.1 * EPSILON / 0.01)


@checked
@given(group(), every_setting)
def test_weight_advantage_multiplies_by_the_weight(members, chosen):
    A, *_, w, _ = one(*members, **(chosen | dict(weight_advantage=False)))
    weighted, *_ = one(*members, **(chosen | dict(weight_advantage=True)))
    assert weighted == [a * b for a, b in zip(A, w, strict=True)]


def test_std_floor_damps_groups_of_small_differences_only():
    small, mixed, lengths = [1.0, 1.0], [1.0, 0.0], [10, 20]
    assert max(map(abs, one(small, lengths)[0])) > 0.6
    assert max(map(abs, one(small, lengths, std_floor=0.3)[0])) < 0.2
    assert one(mixed, lengths, std_floor=0.3) == one(mixed, lengths)


# 11. Negative rewards, and the safe range of the boost


@checked
@given(group(st.floats(-3, 0)), every_setting)
def test_negative_rewards_are_left_alone(members, chosen):
    _, adjusted, *_ = one(*members, **chosen)
    assert adjusted == members[0]


@checked
@given(group(st.floats(0, 1)), st.sampled_from([0.05, 0.1, 0.3, 0.5]), every_setting)
@example(members=([0.9, 1.0, 1.0, 0.9], [1, 999, 1000, 1000]), xi=0.1, chosen={})
def test_safe_boost_never_lets_a_worse_answer_overtake(members, xi, chosen):
    R, L = members
    chosen |= dict(reward_threshold=xi, boost=xi / (1 - xi))
    _, adjusted, *_ = one(R, L, **chosen)
    for i, j in itertools.permutations(range(len(R)), 2):
        if R[i] - R[j] >= xi:
            assert adjusted[i] >= adjusted[j] - 1e-12


def test_larger_boost_does_let_a_worse_answer_overtake():
    _, adjusted, *_ = one([0.9, 0.9, 1.0], [1, 1000, 1000], reward_threshold=0.1, boost=0.2)
    assert adjusted[0] > adjusted[2]


# Extremes


@checked
@given(
    group(),
    st.sampled_from([5e-324, 1e-300, 1e-30, 1e-3, 1.0, 1e30, 1.7e308, math.inf]),
    st.booleans(),
)
@pytest.mark.filterwarnings("ignore:overflow encountered in divide")
def test_extreme_weight_scales_stay_finite(members, scale, weight_advantage):
    A, adjusted, _, w, _ = one(*members, weight_scale=scale, weight_advantage=weight_advantage)
    assert all(map(math.isfinite, A + adjusted))
    assert all(0 < weight <= 1 for weight in w)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, bool])
def test_everything_is_computed_in_float64(dtype):
    R, L = np.array([[1, 0, 1]]), np.array([[3, 4, 100]])
    result, expected = lipo(R.astype(dtype), L), lipo(R.astype(float), L.astype(float))
    assert result.advantages.dtype == np.float64
    assert np.array_equal(result.advantages, expected.advantages)


def test_inputs_are_left_as_they_were():
    R, L = np.array([[1.0, 0.5, -1.0]]), np.array([[3.0, 4.0, 100.0]])
    before = R.copy(), L.copy()
    lipo(R, L, sign_clamp=True, min_pass_rate=0.5, weight_advantage=True)
    assert np.array_equal(R, before[0]) and np.array_equal(L, before[1])


# Options of ours


def by_length_alone(members, chosen, correct=None):
    """(advantages, rewards, right) of the answers of one group that is guarded."""
    R, L = members
    right = [r >= 0.5 for r in R] if correct is None else correct
    result = lipo(np.array([R]), np.array([L]), correct=np.array([right]), **chosen)
    return result.advantages[0].tolist(), R, right


@checked
@given(group(), every_setting)
def test_wrong_answers_of_one_reward_are_not_told_apart_by_length(members, chosen):
    A, R, right = by_length_alone(members, chosen)
    for i, j in itertools.combinations(range(len(R)), 2):
        if R[i] == R[j] and not right[i] and not right[j]:
            assert A[i] == A[j]


@checked
@given(group(st.sampled_from([0.1, 0.3, 0.49])), every_setting)
def test_a_group_that_is_all_wrong_learns_as_without_the_boost(members, chosen):
    A, R, _ = by_length_alone(members, chosen | dict(weight_advantage=False))
    without, *_ = one(*members, **(chosen | dict(weight_advantage=False, boost=0.0)))
    assert A == without
    if len(set(R)) == 1:
        assert A == pytest.approx([0.0] * len(A), abs=1e-8)


def test_correctness_may_come_from_elsewhere_than_the_rewards():
    R, L = [0.5, 0.5, 1.0, 1.0], [10, 20, 10, 20]
    result = lipo(np.array([R]), np.array([L]), correct=np.array([[False, False, True, True]]))
    assert (result.shaped > R).tolist() == [[False, False, True, False]]
    assert (lipo([R], [L]).shaped > R).tolist() == [[True, False, True, False]]


@checked
@given(group(), every_setting)
def test_the_guard_leaves_groups_of_right_answers_to_the_paper(members, chosen):
    R, L = [abs(r) + 0.5 for r in members[0]], members[1]
    assert one(R, L, correct_only=True, **chosen) == one(R, L, **chosen)


@checked
@given(group(), every_setting)
def test_a_truncated_answer_is_never_boosted_but_still_is_a_longer_peer(members, chosen):
    R, L = members
    cut = [length == max(L) or k % 2 == 0 for k, length in enumerate(L)]
    _, _, S, *_ = one(R, L, **chosen)
    _, adjusted, S_cut, *_ = one(R, L, truncated=np.array([cut]), **chosen)
    assert S_cut == [raised and not c for raised, c in zip(S, cut, strict=True)]
    assert all(a == r for a, r, c in zip(adjusted, R, cut, strict=True) if c)


@checked
@given(group(), every_setting, st.floats(0, 1))
def test_under_the_pass_rate_floor_a_group_learns_as_by_grpo(members, chosen, floor):
    R, L = members
    grpo = chosen | dict(boost=0.0, weight_scale=math.inf)
    A, adjusted, _, w, _ = one(R, L, min_pass_rate=floor, **chosen)
    passed = sum(r >= 0.5 for r in R) / len(R) >= floor
    A_alone, adjusted_alone, _, w_alone, _ = one(R, L, **(chosen if passed else grpo))
    assert (A, adjusted, w) == (A_alone, adjusted_alone, w_alone)


@checked
@given(group(), every_setting)
def test_the_clamp_takes_away_flipped_signs_and_nothing_else(members, chosen):
    R, L = members
    correct = [r >= 0.5 for r in R]
    paper, clamped = one(R, L, **chosen)[0], one(R, L, sign_clamp=True, **chosen)[0]
    for a, b, right in zip(paper, clamped, correct, strict=True):
        flipped = 0 < sum(correct) < len(R) and (a < 0 if right else a > 0)
        assert b == (0 if flipped else a)
    chosen |= dict(sign_clamp=True, correct_only=False)
    kept = lipo(np.array([R]), np.array([L]), **chosen).unclamped[0].tolist()
    assert kept == paper


def test_a_long_correct_answer_is_clamped_in_a_mixed_group():
    R, L = [1.0] * 6 + [0.95, 0.49], [1, 1, 1, 1, 1, 100, 100, 100]
    settings = dict(boost=1.0, weight_scale=math.inf)
    assert min(one(R, L, **settings)[0][5:7]) < 0
    assert one(R, L, sign_clamp=True, **settings)[0][5:7] == [0, 0]


@pytest.mark.parametrize("score", [np.float32, np.float64])
def test_scores_that_lie_the_threshold_apart_count_as_different(score):
    correct, formatted = score(0.9), score(0.9) + score(0.1)
    assert not one([correct, formatted], [10, 20], reward_threshold=0.1)[2][0]
    assert one([correct, formatted], [10, 20], reward_threshold=0.11)[2][0]
