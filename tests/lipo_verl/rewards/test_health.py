"""Errors are counted, shown, and stop a run that has too many."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from lipo_verl.rewards.errors import RewardErrorRate, TruthError, WorkerTimeout
from lipo_verl.rewards.health import LEAST, NEARLY_NONE, WINDOW, Health, Sample, Silence

SAMPLE = Sample("charts/val", "x" * 1000 + " the end", "42")


def test_each_kind_is_logged_once_with_its_sample_and_then_at_intervals(caplog):
    health = Health(limit=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(99):
            health.failed(TruthError("no option"), SAMPLE)
        health.failed(WorkerTimeout("too slow"), SAMPLE)
        assert len(caplog.records) == 2
        health.failed(TruthError("no option"), SAMPLE)
        assert len(caplog.records) == 3
    first = caplog.records[0].getMessage()
    for part in ("TruthError: no option", "'charts/val'", "'42'", "the end'"):
        assert part in first
    assert len(first) < 800
    assert health.counts == {"TruthError": 100, "WorkerTimeout": 1}


def test_a_run_is_stopped_as_soon_as_the_rate_is_over_the_limit():
    health = Health(limit=0.2)
    for _ in range(LEAST - 13):
        health.succeeded()
    for _ in range(12):
        health.failed(TruthError("no option"), SAMPLE)
    with pytest.raises(RewardErrorRate, match="13 of the last 64") as stopped:
        health.failed(TruthError("no option"), SAMPLE)
    assert str(stopped.value).count("TruthError: no option") == 3
    with pytest.raises(RewardErrorRate, match="13 of the last 64"):
        health.check()


def test_a_rate_at_the_limit_goes_on():
    health = Health(limit=0.25)
    for _ in range(LEAST):
        for _ in range(3):
            health.succeeded()
        health.failed(TruthError("no option"), SAMPLE)
    health.check()


def test_few_samples_never_stop_a_run():
    health = Health(limit=0)
    for _ in range(LEAST - 1):
        health.failed(TruthError("no option"), SAMPLE)
    health.check()


def test_only_the_recent_samples_count():
    health = Health(limit=0.5)
    for _ in range(10 * WINDOW):
        health.succeeded()
    for _ in range(WINDOW // 2):
        health.failed(TruthError("no option"), SAMPLE)
    with pytest.raises(RewardErrorRate):
        health.failed(TruthError("no option"), SAMPLE)


def test_eight_threads_lose_no_count():
    health = Health(limit=1)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: health.failed(TruthError("x"), SAMPLE), range(2000)))
    assert health.counts["TruthError"] == 2000


def test_errors_of_answers_are_counted_but_stop_no_run():
    health = Health(limit=0)
    for _ in range(2 * WINDOW):
        health.failed(WorkerTimeout("too slow"), SAMPLE, by_answer=True)
    health.check()
    assert health.counts["WorkerTimeout"] == 2 * WINDOW


FEW = int(NEARLY_NONE * WINDOW)
FINE = {"found": True, "kept": True, "opened": False}


def silence_after(few, **missing):
    silence = Silence("boxed", "think_boxed")
    for number in range(3 * WINDOW):
        silence.saw(SAMPLE, **(FINE if number % WINDOW < few else FINE | missing))


def test_a_window_nearly_without_answers_is_one_warning_that_says_where_they_were_sought(caplog):
    silence_after(FEW, found=False)
    (record,) = caplog.records
    assert f"{FEW} of the last {WINDOW} responses have an answer where extract=boxed" in caplog.text
    assert "the end'" in record.getMessage()


def test_a_template_that_nearly_nothing_keeps_is_one_warning(caplog):
    silence_after(FEW, kept=False)
    (record,) = caplog.records
    assert f"{FEW} of the last {WINDOW} responses keep template=think_boxed." in record.getMessage()
    assert "think_in_prompt" not in record.getMessage()


def test_a_thought_that_the_prompt_opened_is_recognised(caplog):
    silence_after(FEW, kept=False, opened=True)
    (record,) = caplog.records
    assert "set the reward's think_in_prompt=true" in record.getMessage()


def test_some_missing_answers_are_no_warning(caplog):
    silence_after(FEW + 1, found=False, kept=False)
    assert not caplog.records
