"""From a response to a score with named parts."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from omegaconf import OmegaConf

from lipo_verl.rewards import pool, scoring
from lipo_verl.rewards.errors import RewardErrorRate, RewardSetupError
from lipo_verl.rewards.health import WINDOW
from lipo_verl.rewards.scoring import RewardConfig, score_response

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)
THOUGHT = "<think>hm</think> "


def score(response, truth, task, **settings):
    return score_response(response, truth, task, RewardConfig.parse(settings))


@pytest.mark.parametrize(
    ("task", "answer", "truth", "accuracy"),
    [
        ("exact", "1,234.50 kg", "1234.5kg", 1.0),
        ("exact", "7", 7, 1.0),
        ("choice", "(B)", "B", 1.0),
        ("relaxed", "103", "100", 1.0),
        ("ocr", "K7U", "K7UX", 0.75),
        ("anls", "k7u", "K7UX", 0.75),
        ("exact", "8", "7", 0.0),
    ],
)
def test_the_task_decides_how_answers_are_compared(task, answer, truth, accuracy):
    parts = score(f"so \\boxed{{{answer}}}", truth, task)
    assert parts == {
        "score": accuracy,
        "accuracy": accuracy,
        "format": 1.0,
        "answer_found": 1.0,
        "reward_error": 0.0,
        "reward_timeout": 0.0,
    }


@pytest.mark.parametrize("container", [list, tuple, np.array, OmegaConf.create])
def test_the_best_of_several_truths_counts(container):
    assert score("Answer: K7U", container(["9999", "K7UX", "K7"]), "ocr")["score"] == 0.75


def test_no_answer_is_a_zero_and_no_error():
    parts = score("I do not know", "7", "exact")
    assert (parts["score"], parts["answer_found"], parts["reward_error"]) == (0.0, 0.0, 0.0)


def test_format_counts_by_its_weight_where_there_is_a_template():
    settings = {"template": "think_boxed", "format_weight": 0.25}
    assert score(THOUGHT + "\\boxed{7}", "7", "exact", **settings)["score"] == 1.0
    assert score("\\boxed{7}", "7", "exact", **settings)["score"] == 0.75
    assert score(THOUGHT + "\\boxed{8}", "7", "exact", **settings)["score"] == 0.25
    assert score("\\boxed{8}", "7", "exact", **settings)["score"] == 0.0


@pytest.mark.parametrize("truth", [None, "", "  ", [], ["", None], {"a": 1}])
def test_a_truth_that_says_nothing_is_an_error_with_the_same_parts(truth, caplog):
    parts = score("\\boxed{7}", truth, "exact")
    assert parts["reward_error"] == 1.0 and parts["score"] == 0.0
    assert parts.keys() == score("\\boxed{7}", "7", "exact").keys()
    assert repr(truth) in caplog.text


def test_an_empty_alias_is_none_and_a_missing_truth_is_no_answer():
    assert score("\\boxed{7}", ["7", "", None], "exact")["score"] == 1.0
    parts = score("\\boxed{nan}", float("nan"), "exact")
    assert (parts["score"], parts["reward_error"]) == (0.0, 1.0)


def test_one_truth_that_cannot_be_scored_leaves_the_others():
    assert score("\\boxed{B}", ["26", "B"], "choice")["score"] == 1.0
    assert score("\\boxed{A}", ["26", "B"], "choice")["reward_error"] == 1.0


def test_no_response_is_one_without_an_answer():
    parts = score(None, "7", "exact", template="think_boxed")
    assert (parts["score"], parts["answer_found"], parts["reward_error"]) == (0.0, 0.0, 0.0)


def test_a_thought_that_the_prompt_opens_is_completed():
    settings = {"template": "think_boxed", "think_in_prompt": True}
    assert score("hm</think> \\boxed{7}", "7", "exact", **settings)["score"] == 1.0
    assert score(THOUGHT + "\\boxed{7}", "7", "exact", **settings)["format"] == 0.0
    cut = score("it may be \\boxed{7}, but", "7", "exact", **settings)
    assert (cut["score"], cut["answer_found"]) == (0.0, 0.0)


def test_a_form_that_the_prompt_begins_is_found_and_said(caplog):
    for _ in range(WINDOW):
        score("hm</think> \\boxed{7}", "7", "exact", template="think_boxed")
    assert f"{WINDOW} would if their prompt opened <think>" in caplog.text


def test_a_run_of_responses_without_answers_is_said(caplog):
    for _ in range(WINDOW):
        score("seven", "7", "exact", extract="tags")
    assert "have an answer where extract=tags looks" in caplog.text


def test_too_many_errors_stop_the_scoring_of_good_samples_too():
    with pytest.raises(RewardErrorRate, match="(?s)64 of the last 64.*names no single option"):
        for _ in range(64):
            score("\\boxed{7}", "26", "choice")
    with pytest.raises(RewardErrorRate):
        score("\\boxed{B}", "B", "choice")


@needs_math_verify
def test_mathematics_is_compared_in_a_pool_from_eight_threads():
    def one(i):
        return score(f"\\boxed{{{i}/7}}", f"\\frac{{{2 * i}}}{{14}}", "math", workers=2, timeout=30)

    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(one, range(40)))
    assert [p["score"] for p in parts] == [1.0] * 40


@needs_math_verify
def test_an_expression_that_hangs_is_a_timeout_and_the_next_is_scored(caplog):
    settings = {"workers": 1, "timeout": 2}
    parts = score("\\boxed{9^{9^{9^{9}}}}", "3", "math", **settings)
    assert (parts["score"], parts["reward_error"], parts["reward_timeout"]) == (0.0, 1.0, 1.0)
    assert "9^{9^{9^{9}}}" in caplog.text
    assert score("\\boxed{2/4}", "0.5", "math", **settings)["score"] == 1.0


def test_answers_that_hang_stop_no_run_and_truths_that_hang_do(monkeypatch, tmp_path):
    (tmp_path / "hangs.py").write_text(
        "import time\ndef compare(a, b):\n    time.sleep(60 * ('hang' in a + b))\n"
        "    return a == '1'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(scoring, "_MATH", "hangs:compare")
    monkeypatch.setattr("lipo_verl.rewards.health.LEAST", 2)
    settings = {"workers": 1, "timeout": 0.5, "error_limit": 0}
    for _ in range(2):
        parts = score("\\boxed{hang}", "3", "math", **settings)
        assert (parts["score"], parts["reward_timeout"]) == (0.0, 1.0)
    assert score("\\boxed{1}", "3", "math", **settings)["score"] == 1.0
    with pytest.raises(RewardErrorRate, match="WorkerTimeout"):
        score("\\boxed{1}", "hang", "math", **settings)


def test_an_exact_match_needs_no_process(monkeypatch):
    monkeypatch.setattr(pool, "shared_pool", None)
    assert score("\\boxed{1,000}", ["5", "1000"], "math")["score"] == 1.0


def test_an_exception_in_a_worker_is_an_error_but_no_timeout(monkeypatch, caplog):
    monkeypatch.setattr(scoring, "_MATH", "operator:truediv")
    parts = score("\\boxed{1}", "2", "math", workers=1)
    assert (parts["reward_error"], parts["reward_timeout"]) == (1.0, 0.0)
    assert "TypeError" in caplog.text


def test_a_worker_that_crashes_is_an_error_and_the_next_sample_is_scored(
    monkeypatch, tmp_path, caplog
):
    (tmp_path / "crashes.py").write_text(
        "import os\ndef compare(a, b):\n    return os._exit(9) if a == 'die' else a == b.lower()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(scoring, "_MATH", "crashes:compare")
    parts = score("\\boxed{die}", "2", "math", workers=1)
    assert (parts["reward_error"], parts["reward_timeout"]) == (1.0, 0.0)
    assert "WorkerCrashed: the worker process ended with code 9" in caplog.text
    assert score("\\boxed{(b}", "(B", "math", workers=1)["score"] == 1.0


# Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"taks": "math"}, "Did you mean task?"),
        ({"task": "maths"}, "Did you mean math?"),
        ({"tasks": {"a/b": "orc"}}, "tasks.a/b='orc'.*Did you mean ocr?"),
        ({"format_weight": 1.5}, "format_weight=1.5"),
        ({"timeout": 0}, "timeout=0"),
        ({"workers": 0}, "workers=0"),
        ({"template": "think"}, "template='think'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(settings, words):
    with pytest.raises(RewardSetupError, match=words):
        RewardConfig.parse(settings)


@pytest.mark.parametrize(
    ("settings", "source", "extra", "task"),
    [
        ({}, "quickstart/ocr", None, "ocr"),
        ({}, "math", {}, "math"),
        ({}, "geometry3k", {"reward_task": "math"}, "math"),
        ({}, "quickstart/ocr", {"reward_task": "anls"}, "anls"),
        ({"task": "exact"}, "quickstart/ocr", {"reward_task": "anls"}, "exact"),
        ({"task": "exact", "tasks": {"a/b": "math"}}, "a/b", None, "math"),
        ({"task": "exact", "tasks": {"a/b": "math"}}, "a/c", None, "exact"),
        ({"task": "exact"}, None, None, "exact"),
    ],
)
def test_the_task_of_a_sample(settings, source, extra, task):
    assert RewardConfig.parse(settings).task_of(source, extra) == task


@pytest.mark.parametrize(
    ("source", "extra", "words"),
    [
        ("geometry3k", None, "'geometry3k'.*keyword argument task.*exact, choice"),
        ("lab/Data-v1.5", None, "'tasks={lab/Data-v1.5: TASK}'"),
        ("geometry3k", {"reward_task": "orc"}, "'orc'.*Did you mean ocr"),
    ],
)
def test_a_sample_without_a_task_is_a_setup_error(source, extra, words):
    with pytest.raises(RewardSetupError, match=words):
        RewardConfig().task_of(source, extra)


def test_a_missing_package_is_a_setup_error(monkeypatch):
    scoring._scorer.cache_clear()
    monkeypatch.setitem(scoring._SCORERS, "ocr", "no_such_module:similarity")
    with pytest.raises(RewardSetupError, match=r"task=ocr .*'\.\[rewards\]'"):
        score("\\boxed{a}", "a", "ocr")
    scoring._scorer.cache_clear()
