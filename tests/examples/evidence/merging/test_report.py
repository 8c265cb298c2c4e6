"""The page's part about merging is made from the rows alone."""

import re

import pytest

from examples.evidence.merging import report
from examples.evidence.merging import rows as rows_of
from examples.evidence.merging.bench import SIZES, sets
from examples.evidence.merging.grid import PUBLISHED, WITHOUT, Merge, choices, scaled
from examples.evidence.merging.report import RESULTS
from tests.examples.evidence.merging.results import write

SIZE = SIZES["full"]
CEILINGS = [Merge("base"), Merge("experts")]


def test_the_page_in_the_repository_is_what_its_results_make(page, make):
    before = page.read_text()
    make(report, RESULTS)
    assert page.read_text() == before


def accuracy(merge, seed):
    """WUDI 0.5, AMM 0.1 below, without R 0.1 above; at a scale of 0.5 all are good."""
    if merge.parameters.get("scale") == 0.5:
        return 0.9
    by_method = {"wudi": 0.5, "amm": 0.4, "ties": 0.5 + seed / 100}
    return by_method.get(merge.method, 0.2) + 0.2 * (merge.parameters == {"penalty_weight": 0.0})


@pytest.fixture
def folder(tmp_path):
    alone = [*(each for merge in PUBLISHED for each in scaled(merge)), *choices()]
    held_out = [*PUBLISHED, *WITHOUT, Merge("amm", {"scale": 0.5})]
    held_out += [Merge(merge.method, {**merge.parameters, "scale": 0.5}) for merge in PUBLISHED]
    for phase, merges in (("tune", alone), ("report", held_out)):
        for bench in sets(phase, SIZE):
            if bench.family != "rl":
                told = [(merge, accuracy(merge, bench.seed)) for merge in CEILINGS + merges]
                write(tmp_path / "rows", bench, dict.fromkeys(SIZE.experts, told))
    combined = Merge("amm", {"scale": 0.5, "penalty_weight": 0.0})
    for bench in sets("tune", SIZE):
        rows = rows_of.read(bench.file(tmp_path / "rows"))
        for experts in SIZE.experts:
            row = report.Row(
                experts, "amm", dict(combined.parameters), [0.95] * experts, [9.0] * experts
            )
            rows[row.key] = row
        rows_of.write(bench.file(tmp_path / "rows"), rows.values())
    return tmp_path / "rows"


def cells(page, start):
    found = re.findall(rf"^\| {re.escape(start)}.* \|$", page.read_text(), re.MULTILINE)
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in found]


def test_methods_are_told_against_wudi_and_with_their_best_scale(page, make, folder):
    make(report, folder)
    for row in cells(page, "`amm` "):
        assert (
            row[1:] == ["0.400", "0.400", "0.400", "0.400", "-10.0 ± 0.0", "0.900"]
            or row[1:] == ["-10.0 ± 0.0"] * 4
        )
    seeds = SIZE.reported
    for row in cells(page, "`ties` "):
        assert row[5].startswith(f"{sum(seeds) / len(seeds):+.1f} ± 2.")
    order = [row[0] for row in cells(page, "`")[: len(PUBLISHED)]]
    assert order[:3] == ["`ties`", "`wudi`", "`amm`"]


def test_ingredients_and_choices_are_told(page, make, folder):
    make(report, folder)
    (without,) = [row for row in cells(page, "`amm, penalty_weight 0.0`") if row[1].startswith("+")]
    assert without[1:] == ["+10.0 ± 0.0"] * 4
    (combined,) = cells(page, "combined")
    assert combined[1] == "`amm, scale 0.5, penalty_weight 0.0`; **the best**"
    assert combined[2:] == ["0.950"] * 4


def test_an_unfinished_bench_says_so(page, make, tmp_path):
    make(report, tmp_path / "nothing")
    assert "Tuning is under way: 0 of 9 sets begun." in page.read_text()
