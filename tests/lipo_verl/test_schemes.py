"""Each scheme against a reference in plain Python that was written from its formula alone, and by
its own identities; then what is made of shaped rewards: normalisation and filter."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_verl.config import LipoConfig
from lipo_verl.lipo import lipo
from lipo_verl.schemes import Responses, get_scheme, schemes
from lipo_verl.schemes.laser_d import estimate_targets

checked = settings(deadline=None, derandomize=True, max_examples=100)

BUDGET = 512


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def kimi(r, L, c, weight=0.4):
    shaped = []
    for reward, length, right in zip(r, L, c, strict=True):
        score = 0.0
        if max(L) > min(L):
            score = 0.5 - (length - min(L)) / (max(L) - min(L))
        shaped.append(reward + weight * (score if right else min(0.0, score)))
    return shaped


def arora(r, L, c, alpha=0.1):
    lengths = [length for length, right in zip(L, c, strict=True) if right]
    if not lengths:
        return list(r)
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return [
        reward * (1 - alpha * sigmoid((length - mean) / (deviation + 1e-7))) if right else reward
        for reward, length, right in zip(r, L, c, strict=True)
    ]


def laser(r, L, c, target_length=200, bonus=0.5):
    return [
        reward + bonus if right and length <= target_length else reward
        for reward, length, right in zip(r, L, c, strict=True)
    ]


def shorterbetter(r, L, c, alpha=2.0, beta=0.001):
    right = [length for length, ok in zip(L, c, strict=True) if ok]
    best = min(right) if right else statistics.fmean(L)
    return [alpha * ok - beta * abs(length - best) for length, ok in zip(L, c, strict=True)]


def alp(r, L, c, beta=1e-7):
    p = sum(c) / len(c)
    return [
        reward - beta * length * max(p, 1 / len(c)) for reward, length in zip(r, L, strict=True)
    ]


def gr3(r, L, c, alpha=0.33):
    mean = statistics.fmean(L)
    return [reward / (1 + alpha * length / mean) for reward, length in zip(r, L, strict=True)]


def overlong(r, L, c, buffer=BUDGET / 5, factor=1.0):
    shaped = []
    for reward, length in zip(r, L, strict=True):
        over = max(0.0, length - (BUDGET - buffer))
        shaped.append(reward - factor * min(1.0, over / buffer))
    return shaped


def truncation(r, L, c):
    return [0.0 if length >= BUDGET else reward for reward, length in zip(r, L, strict=True)]


REFERENCES = {
    "kimi": (kimi, [{}, {"weight": 1.0}]),
    "arora": (arora, [{}, {"alpha": 0.4}]),
    "laser": (laser, [{"target_length": 200}, {"target_length": 40, "bonus": 1.0}]),
    "shorterbetter": (shorterbetter, [{}, {"alpha": 1.0, "beta": 0.01}]),
    "alp": (alp, [{}, {"beta": 1e-3}]),
    "gr3": (gr3, [{}, {"alpha": 2.0}]),
    "overlong": (overlong, [{}, {"buffer": 100, "factor": 0.5}]),
    "truncation": (truncation, [{}]),
}
CASES = [(name, chosen) for name, (_, several) in REFERENCES.items() for chosen in several]


def test_every_scheme_has_its_reference():
    elsewhere = {"lipo", "laser_d"}  # test_lipo.py, and below
    assert {scheme.name for scheme in schemes()} == set(REFERENCES) | elsewhere


def responses(rewards, lengths, correct=None, budget=BUDGET):
    """(G, n) arrays from lists of groups."""
    R, L = np.array(rewards, np.float64), np.array(lengths, np.float64)
    correct = R >= 0.5 if correct is None else np.array(correct, bool)
    return Responses(R, L, correct, L >= (budget or math.inf), budget)


def shaped(name, given, state=None, **chosen):
    scheme = get_scheme(name)
    memory = () if scheme.remember is None else (state,)
    return scheme.function(given, LipoConfig(scheme=name, **chosen), *memory)


lengths = st.one_of(st.integers(1, BUDGET), st.sampled_from([1, 40, 41, 200, 411, 412, BUDGET]))
rewards = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


@st.composite
def groups(draw, reward=rewards):
    """(rewards, lengths, correct), each G lists of n: ties, all right, all wrong, mixed."""
    n = draw(st.integers(2, 8))
    G = draw(st.integers(1, 4))
    kind = draw(st.sampled_from([[True], [False], [True, False]]))
    rows = [
        [(draw(reward), draw(lengths), draw(st.sampled_from(kind))) for _ in range(n)]
        for _ in range(G)
    ]
    return tuple([[member[k] for member in row] for row in rows] for k in range(3))


@pytest.mark.parametrize(("name", "chosen"), CASES)
@checked
@given(given_groups=groups())
def test_equals_the_reference(name, chosen, given_groups):
    reference = REFERENCES[name][0]
    expected = [reference(*row, **chosen) for row in zip(*given_groups, strict=True)]
    np.testing.assert_allclose(
        shaped(name, responses(*given_groups), **chosen), expected, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", REFERENCES)
@checked
@given(given_groups=groups(st.floats(-1, 1)), seed=st.integers(0, 99))
def test_no_scheme_heeds_the_order_of_samples_or_of_groups(name, given_groups, seed):
    chosen = REFERENCES[name][1][0]
    rng = np.random.default_rng(seed)
    R, L, c = map(np.array, given_groups)
    rows, columns = rng.permutation(len(R)), rng.permutation(R.shape[1])
    straight = shaped(name, responses(R, L, c), **chosen)
    again = shaped(name, responses(*(x[rows][:, columns] for x in (R, L, c))), **chosen)
    np.testing.assert_allclose(again, straight[rows][:, columns], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", REFERENCES)
@checked
@given(given_groups=groups(st.sampled_from([0.0, 1.0])))
def test_no_wrong_answer_is_raised_and_of_equal_ones_the_shorter_is_never_worse(name, given_groups):
    given = responses(given_groups[0], given_groups[1])
    R, L, c = given.rewards, given.lengths, given.correct
    result = shaped(name, given, **REFERENCES[name][1][0])
    assert (result <= R)[~c].all()
    shorter = (L[:, None, :] > L[:, :, None]) & (c[:, None, :] & c[:, :, None])
    assert (result[:, :, None] >= result[:, None, :] - 1e-12)[shorter].all()


@pytest.mark.parametrize("name", ["arora", "gr3", "truncation"])
def test_a_negative_reward_is_left_alone(name):
    given = responses([[-1.0, -0.5, -1.0]], [[10, 20, BUDGET]], [[True, True, False]])
    assert shaped(name, given).tolist() == given.rewards.tolist()


# Identities of single schemes


def test_kimi_gives_half_its_weight_to_the_shortest_and_takes_it_from_the_longest():
    given = responses([[1, 1, 1, 0, 0]], [[10, 20, 30, 10, 30]])
    assert shaped("kimi", given)[0] == pytest.approx([1.2, 1.0, 0.8, 0.0, -0.2])


def test_arora_halves_alpha_where_one_answer_alone_is_right():
    given = responses([[1, 0, 0]], [[10, 20, 30]])
    assert shaped("arora", given, alpha=0.4)[0] == pytest.approx([0.8, 0, 0])


def test_alp_costs_more_where_the_prompt_is_easy():
    easy, hard = responses([[1, 1, 1, 1]], [[100] * 4]), responses([[1, 0, 0, 0]], [[100] * 4])
    of_easy, of_hard = (1 - shaped("alp", g, beta=1e-3)[0, 0] for g in (easy, hard))
    assert of_easy == pytest.approx(4 * of_hard) == pytest.approx(0.1)


def test_gr3_without_alpha_and_overlong_before_the_buffer_leave_rewards_alone():
    given = responses([[1, 0.3, 0]], [[10, 20, 400]])
    assert np.array_equal(shaped("gr3", given, alpha=0), given.rewards)
    assert np.array_equal(shaped("overlong", given, buffer=112), given.rewards)


def test_overlong_is_verls_own_penalty():
    """verl's DAPO reward manager: min(-(length - (max - buffer)) / buffer * factor, 0)."""
    L = np.arange(1, BUDGET + 1)
    given = responses([np.ones(BUDGET)], [L])
    verl = 1 + np.minimum(-(L - (BUDGET - 128)) / 128 * 0.5, 0)
    np.testing.assert_allclose(shaped("overlong", given, buffer=128, factor=0.5)[0], verl)


def test_overlong_asks_for_the_budget():
    with pytest.raises(ValueError, match="needs response_budget"):
        shaped("overlong", responses([[1, 0]], [[3, 4]], budget=None))


# LASER-D


def laser_d_targets(batch, n, least=1, step=1):
    """{difficulty: target length}, from (lengths, correct) of groups of n, read from the paper's
    code: the least length of the grid that lets a group of this pass rate expect a right answer."""
    found = {}
    longest = max(length for L, _ in batch for length in L)
    for name, low, high, fewest in (
        ("hard", 0, 1 / 3, 1),
        ("medium", 1 / 3, 2 / 3, max(int(n / 3), 1)),
        ("easy", 2 / 3, 2, max(int(2 * n / 3), 1)),
    ):
        of_level = [x for L, c in batch if low <= sum(c) / len(c) < high for x in L]
        target = length = least
        target = None
        while length < longest and target is None and of_level:
            share = sum(x <= length for x in of_level) / len(of_level)
            if math.floor(share * fewest + 1e-9) >= 1:
                target = length
            length += step
        found[name] = longest if target is None else target
    return found


@checked
@given(groups(), st.sampled_from([{}, {"least_target": 50, "grid_step": 25}]))
def test_laser_d_takes_the_least_length_that_promises_a_right_answer(given_groups, grid):
    R, L, c = given_groups
    config = LipoConfig(scheme="laser_d", **grid)
    state = estimate_targets(None, [responses(R, L, c)], config)
    least, step = grid.get("least_target", 1), grid.get("grid_step", 1)
    expected = laser_d_targets(list(zip(L, c, strict=True)), len(L[0]), least, step)
    assert {k.removeprefix("target_length_"): v for k, v in state.items()} == {
        **expected,
        "target_age": 0,
    }


def test_laser_d_gives_the_bonus_by_difficulty():
    easy, hard = [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]
    given = responses([easy, hard], [[10, 20, 30, 40, 50, 60]] * 2)
    state = {"target_length_hard": 5, "target_length_medium": 25, "target_length_easy": 35}
    result = shaped("laser_d", given, {**state, "target_age": 0})
    assert result.tolist() == [[1.5, 1.5, 1.5, 1, 1, 1], hard]


def test_laser_d_follows_the_policy_every_so_many_batches():
    config = LipoConfig(scheme="laser_d", every=3)
    state, seen = None, []
    for longest in (100, 10, 10, 10, 10):
        batch = [responses([[1, 1, 1]], [[longest // 2, longest // 2, longest]])]
        _, state = lipo(batch, config, state)
        seen.append((state["target_age"], state["target_length_easy"]))
    assert seen == [(0, 50), (1, 50), (2, 50), (0, 5), (1, 5)]


# What is made of shaped rewards


def advantages(R, L, **chosen):
    """The advantages of groups that may differ in size, as lists."""
    batch = [responses([r], [length]) for r, length in zip(R, L, strict=True)]
    results, _ = lipo(batch, LipoConfig(**chosen))
    return [result.advantages[0].tolist() for result in results]


several = st.lists(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.lists(rewards, min_size=n, max_size=n), st.lists(lengths, min_size=n, max_size=n)
        )
    ),
    min_size=1,
    max_size=4,
)


@checked
@given(several, st.sampled_from(["kimi", "gr3", "truncation"]))
def test_normalisations_divide_by_the_groups_the_batchs_or_no_deviation(members, name):
    R, L = zip(*members, strict=True)
    made = [REFERENCES[name][0](r, length, [x >= 0.5 for x in r]) for r, length in members]
    centred = [[x - statistics.fmean(row) for x in row] for row in made]
    pooled = math.sqrt(sum(x * x for row in centred for x in row) / (sum(map(len, made)) - 1))
    expected = {
        "none": centred,
        "batch": [[x / (pooled + 1e-6) for x in row] for row in centred],
        "group": [
            [x / (statistics.stdev(row) + 1e-6) for x in cs]
            for row, cs in zip(made, centred, strict=True)
        ],
    }
    for normalization, rows in expected.items():
        result = advantages(R, L, scheme=name, normalization=normalization)
        for a, b in zip(result, rows, strict=True):
            assert a == pytest.approx(b, rel=1e-6, abs=1e-7)


def test_one_deviation_of_the_batch_keeps_a_group_of_small_differences_small():
    R, L = [[1, 1, 1, 1], [1, 0, 1, 0]], [[10, 20, 30, 40]] * 2
    by_group, by_batch = (
        advantages(R, L, normalization=normalization) for normalization in ("group", "batch")
    )
    assert max(by_group[0]) > 1
    assert 0 < max(by_batch[0]) < 0.2 < max(by_batch[1])


@checked
@given(several, st.integers(2, 5), st.sampled_from(["length", "reward_per_token"]))
def test_the_filter_compares_the_kept_alone_and_the_others_get_zero(members, keep, keep_by):
    R, L = zip(*members, strict=True)
    chosen = dict(scheme="gr3", keep=keep, keep_by=keep_by)
    for r, length, result in zip(R, L, advantages(R, L, **chosen), strict=True):
        key = length if keep_by == "length" else [-x / t for x, t in zip(r, length, strict=True)]
        last = sorted(key)[min(keep, len(key)) - 1]
        kept = [k for k in range(len(r)) if key[k] <= last]
        shaped_rewards = gr3(r, length, None)
        alone = [shaped_rewards[k] for k in kept]
        expected = [0.0] * len(r)
        for k in kept:
            expected[k] = (shaped_rewards[k] - statistics.fmean(alone)) / (
                statistics.stdev(alone) + 1e-6
            )
        assert result == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_a_filter_that_keeps_all_changes_nothing():
    R, L = [[1, 0, 1, 0], [1, 1]], [[5, 6, 7, 9], [3, 4]]
    assert advantages(R, L, keep=4) == advantages(R, L)


@checked
@given(several, st.sampled_from(["lipo", "kimi", "shorterbetter"]))
def test_weights_are_a_choice_apart_from_the_scheme(members, name):
    R, L = zip(*members, strict=True)
    weighted, plain = (advantages(R, L, scheme=name, weights=w) for w in ("lipo", "none"))
    assert advantages(R, L, scheme=name) == (weighted if name == "lipo" else plain)
    scaled = advantages(R, L, scheme=name, weights="lipo", weight_scale=math.inf)
    for a, b in zip(scaled, plain, strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-9)


def test_correct_only_keeps_any_scheme_from_raising_a_wrong_answer():
    given = responses([[0.1, 0.1, 1.0]], [[10, 40, 20]])
    for correct_only in True, False:
        config = LipoConfig(correct_only=correct_only)
        (result,), _ = lipo([given], config)
        assert (result.shaped > given.rewards)[0].tolist() == [not correct_only, False, False]
