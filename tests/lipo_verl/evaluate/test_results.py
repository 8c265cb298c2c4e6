"""What is written, and when it counts as finished."""

import json

import pytest

from lipo_verl.evaluate import results
from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.results import Pair


def row(number, accuracy=1.0, tokens=10, source="mine", **changes):
    return {
        "row": number,
        "data_source": source,
        "accuracy": accuracy,
        "tokens": tokens,
        "truncated": False,
        "answer_found": True,
        "reward_error": False,
    } | changes


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path, "math", "val")


def test_figures_are_those_of_the_answers(pair):
    rows = [
        row(0, 1.0, 10),
        row(1, 0.0, 30, truncated=True),
        row(2, 1.0, 20),
        row(3, 0.0, 40, answer_found=False, reward_error=True),
    ]
    content = pair.write(rows, {"path": "somewhere"})
    assert content["questions"] == 4
    assert content["accuracy"] == 0.5
    assert content["mean_tokens"] == 25
    assert content["tokens_per_correct"] == 50
    assert content["truncated"] == 0.25
    assert content["answer_found"] == 0.75
    assert content["unscored"] == 1
    assert content["path"] == "somewhere"
    assert pair.read() == content
    assert pair.rows() == rows


def test_missing_answers_and_a_missing_form_show_in_the_line_and_the_table(pair, tmp_path):
    content = pair.write([row(0, format=1.0), row(1, 0.0, format=0.0, answer_found=False)], {})
    assert "50.0% with an answer  50.0% in the form" in results.line(content)
    table = results.write_summary(tmp_path, [pair], []).read_text()
    assert "| answer found | form kept |" in table and "| 50.0% | 50.0% |" in table


def test_a_line_says_nothing_of_answers_that_are_all_there(pair, tmp_path):
    line = results.line(pair.write([row(0)], {}))
    assert "with an answer" not in line and "in the form" not in line
    assert "| 100.0% | – |" in results.write_summary(tmp_path, [pair], []).read_text()


def test_several_data_sources_are_told_apart(pair):
    content = pair.write([row(0, 1.0, 10, "a"), row(1, 0.0, 30, "b"), row(2, 1.0, 20, "a")], {})
    assert content["by_source"]["a"]["mean_tokens"] == 15
    assert content["by_source"]["b"]["accuracy"] == 0
    assert "by_source" not in pair.write([row(0)], {})


def test_a_pair_without_a_correct_answer_is_still_json(pair):
    content = pair.write([row(0, 0.0)], {})
    assert content["tokens_per_correct"] is None
    assert json.loads(pair.figures.read_text())["tokens_per_correct_interval"] == [None, None]
    assert "per correct" not in results.line(content)


def test_a_pair_is_finished_once_its_figures_are_there(pair):
    identity = {"model": "abc", "sampling": {"temperature": 0.0}}
    assert not pair.finished(identity)
    pair.write([row(0)], {"identity": identity})
    assert pair.finished(identity)


def test_a_pair_of_another_identity_is_refused_and_says_what_differs(pair):
    pair.write([row(0)], {"identity": {"model": "abc", "sampling": {"temperature": 0.0}}})
    with pytest.raises(EvaluationError, match=r"sampling was .*0.0.*now .*1.0.*--output") as error:
        pair.finished({"model": "abc", "sampling": {"temperature": 1.0}})
    assert "model" not in str(error.value).partition("holds")[2]


def test_answers_that_stop_midway_leave_nothing_finished(pair):
    def rows():
        yield row(0)
        raise RuntimeError("the machine went off")

    with pytest.raises(RuntimeError):
        pair.write(rows(), {})
    assert not pair.samples.exists()
    assert not pair.figures.exists()


def test_comparison_is_by_question(tmp_path):
    one, other = Pair(tmp_path, "grpo", "val"), Pair(tmp_path, "lipo", "val")
    one.write([row(i, float(i % 2), 100) for i in range(20)], {})
    other.write([row(i, float(i % 2), 30) for i in range(20)], {})
    content = results.comparison(one, other)
    assert content["accuracy_difference"] == 0
    assert content["accuracy_difference_interval"] == [0, 0]
    assert content["token_ratio"] == pytest.approx(0.3)
    words = results.comparison_line(content)
    assert words == (
        "lipo against grpo on val: +0.0 points of accuracy (+0.0 to +0.0), 30% of the tokens "
        "(30% to 30%)"
    )


def test_summary_has_every_pair_and_the_comparisons(tmp_path):
    pairs = [Pair(tmp_path, model, "val") for model in ("grpo", "lipo")]
    for pair in pairs:
        pair.write([row(0), row(1, 0.0)], {})
    comparison = results.comparison(*pairs)
    page = results.write_summary(tmp_path, pairs, [comparison]).read_text()
    assert "## val" in page
    assert "| grpo | 0.500 (" in page
    assert results.comparison_line(comparison) in page
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["figures"]["val"]) == ["grpo", "lipo"]
    assert summary["comparisons"] == [comparison]
    assert not list(tmp_path.rglob("*.tmp"))
