"""The bench's rules, on made-up rows."""

import pytest

from examples.evidence.merging.choice import best_forms, best_scales, cells, combinations, overall
from examples.evidence.merging.grid import PUBLISHED, Merge, choices, scaled
from examples.evidence.merging.rows import Set
from tests.examples.evidence.merging.results import write

AMM = Merge("amm")


@pytest.fixture
def tuning(tmp_path):
    """A function that makes two seeds' rows of two cells, from the accuracy of each merge."""

    def make(accuracy):
        merges = [*(each for merge in PUBLISHED for each in scaled(merge)), *choices()]
        return dict(
            write(
                tmp_path,
                Set("tune", "closings", "full", seed),
                {
                    experts: [(merge, accuracy(merge, experts, seed)) for merge in merges]
                    for experts in (3, 5)
                },
            )
            for seed in (0, 1)
        )

    return make


def test_cells_are_means_over_seeds_and_weigh_the_same(tuning):
    results = tuning(lambda merge, experts, seed: experts / 10 + seed / 10)
    assert cells(results, AMM) == {
        ("closings", "full", 3): pytest.approx(0.35),
        ("closings", "full", 5): pytest.approx(0.55),
    }
    assert overall(results, AMM) == pytest.approx(0.45)


def test_every_method_gets_the_best_scale_of_each_cell(tuning):
    best = {3: 0.7, 5: 0.3}
    scales = best_scales(
        tuning(lambda merge, experts, _: float(merge.parameters.get("scale") == best[experts]))
    )
    for (_, _, experts), merges in scales.items():
        assert [merge.method for merge in merges] == [merge.method for merge in PUBLISHED]
        for merge in merges:
            assert merge.parameters.get("scale", 1) in (1, best[experts])
            assert ("scale" in merge.parameters) == (merge.method not in ("mean", "karcher"))


def gains(told):
    """The accuracy of AMM by what a choice gains; others lose a tenth."""
    return lambda merge, *_: 0.5 + told.get(merge.name.removeprefix("amm, "), -0.1 * (merge != AMM))


def test_combinations_add_one_kind_after_the_other_by_what_it_gains(tuning):
    told = {"penalty_weight 0.0": 0.1, "penalty_weight 1.0": 0.05, "steps 100": 0.2}
    told |= {"alpha uniform": 0.03, "beta uniform": 0.004}
    assert [merge.parameters for merge in combinations(tuning(gains(told)))] == [
        {"steps": 100, "penalty_weight": 1.0},
        {"steps": 100, "penalty_weight": 0.0},
        {"steps": 100, "penalty_weight": 0.0, "alpha": "uniform"},
    ]


def test_the_best_reading_has_all_ingredients_and_the_best_form_need_not(tuning):
    reading, form = best_forms(tuning(gains({"penalty_weight 0.0": 0.1, "steps 100": 0.004})))
    assert reading.parameters == {"steps": 100}
    assert form.parameters == {"penalty_weight": 0.0}


def test_nothing_is_combined_where_no_choice_gains(tuning):
    results = tuning(lambda merge, *_: 0.5)
    assert combinations(results) == []
    assert best_forms(results) == [AMM, AMM]
