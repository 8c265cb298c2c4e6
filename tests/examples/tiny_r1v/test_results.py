"""The page that sets a run beside the paper."""

import json
from pathlib import Path

import pytest

from amm import InputError
from examples.tiny_r1v.eval.benchmarks import BENCHMARKS
from examples.tiny_r1v.eval.predictions import annotate
from examples.tiny_r1v.results import markdown, results, write
from tests.examples.tiny_r1v.eval.kit import METRICS, predictions, status, wemath

SECOND = "T20260102-000000"


def words(texts):
    return [len(text.split()) for text in texts]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A finished model: its answers are two and four words long, its scores the paper's."""
    for benchmark in BENCHMARKS:
        annotate(predictions(tmp_path, "mine", benchmark.dataset, ["a b", "a b c d"]), words)
    status(tmp_path, "mine", METRICS)
    wemath(tmp_path, "mine", "30.80%")
    return tmp_path


def test_scores_and_tokens_stand_beside_the_papers(work):
    found = results(work / "mine")
    assert list(found) == [each.name for each in BENCHMARKS]
    for benchmark in BENCHMARKS:
        result = found[benchmark.name]
        assert result.score == pytest.approx(benchmark.tiny_r1v), benchmark.name
        assert (result.tokens, result.answers, result.failed) == (3, 2, 0)
        assert result.notes == []
    page = markdown({"mine": found})
    assert "| WeMath | 22.9 | 30.8 | 30.8 · 3.0 |" in page
    assert "| MME | 2157 | 2300 | 2300.0 · 3.0 |" in page
    assert "MathVista 138 and 83" in page
    assert "Missing" not in page


def test_a_later_run_counts_and_what_it_lacks_comes_from_the_earlier(work):
    status(work, "mine", {"MME": {"perception": 1000.0, "reasoning": 500.0}}, run=SECOND)
    found = results(work / "mine")
    assert found["MME"].score == 1500
    assert found["MMStar"].score == pytest.approx(60.8)


def test_a_run_that_only_answered_hides_no_score(work):
    status(work, "mine", {"MME": {}}, run=SECOND)
    assert results(work / "mine")["MME"].score == 2300


def test_what_is_missing_is_a_dash_with_a_reason(tmp_path):
    predictions(tmp_path, "mine", "MME", ["yes", "Failed to obtain answer via API. "])
    status(tmp_path, "mine", {}, errors={"MME": "no key\nTraceback"})
    found = results(tmp_path / "mine")
    assert (found["MME"].score, found["MME"].tokens, found["MME"].failed) == (None, None, 1)
    assert found["MME"].notes == [
        "1 of 2 questions without an answer",
        "tokens not counted; run examples.tiny_r1v.eval.predictions",
        "scoring failed: no key",
    ]
    assert found["MMStar"].notes == ["no predictions"]
    page = markdown({"mine": found})
    assert "| MME | 2157 | 2300 | – · – |" in page
    assert "- mine, MMStar: no predictions" in page


def test_questions_without_an_answer_do_not_count_as_short_ones(tmp_path):
    answers = ["a b c", "Failed to obtain answer via API. "]
    annotate(predictions(tmp_path, "mine", "MME", answers), words)
    status(tmp_path, "mine", {"MME": METRICS["MME"]})
    assert results(tmp_path / "mine")["MME"].tokens == 3


def test_the_page_and_the_numbers_are_written(work):
    page = write(work, ["mine"])
    assert "mine: score · tokens" in page.read_text()
    content = json.loads((work / "results.json").read_text())
    assert content["paper"]["MathVista"] == {"base": 62.3, "tiny_r1v": 65.5}
    assert content["run"]["mine"]["MathVista"]["tokens"] == 3


def test_a_misspelt_model_gets_a_hint(work):
    with pytest.raises(InputError, match="no model mien. Did you mean 'mine'"):
        write(work, ["mien"])
    with pytest.raises(InputError, match="There is no folder"):
        write(work / "gone", ["mine"])
