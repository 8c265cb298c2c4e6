"""What a smoke run's metrics mean."""

import json
import math

import pytest

pytest.importorskip("hydra")  # comes with verl

from examples.tiny_r1v.launch.smoke import judge, steps

GOOD = {
    "training/rollout_actor_probs_pearson_corr": 0.9995,
    "training/rollout_probs_diff_mean": 0.002,
    "training/rollout_probs_diff_max": 0.3,
    "critic/score/mean": 0.4,
    "response_length/mean": 300.0,
    "response_length/clip_ratio": 0.05,
    "actor/grad_norm": 0.7,
    "actor/perf/max_memory_reserved_gb": 51.2,
    "perf/time_per_step": 61.0,
}


def wrong(framework="verl", accuracy=0.5, saved=2, **changes):
    """The sentences on what is wrong."""
    first = GOOD | {name.replace("__", "/"): value for name, value in changes.items()}
    found = judge(framework, {0: {}, 1: first, 2: first}, accuracy, saved)
    return [sentence for good, sentence in found if not good]


def test_nothing_is_wrong_with_a_run_that_went_well():
    assert wrong() == []
    said = " ".join(sentence for _, sentence in judge("verl", {1: GOOD, 2: GOOD}, 0.5, 2))
    for figure in ("0.9995", "0.500", "0.400, 0.400", "300 tokens", "5 %", "51 GiB", "61 s"):
        assert figure in said


@pytest.mark.parametrize(
    "change, says",
    [
        ({"training__rollout_actor_probs_pearson_corr": 0.8}, "load_format=auto"),
        (
            {"training__rollout_actor_probs_pearson_corr": math.nan},
            "calculate_log_probs=true",
        ),
        ({"critic__score__mean": 0.0}, "mean reward"),
        ({"response_length__clip_ratio": 0.9}, "90 % of them cut"),
        ({"actor__grad_norm": math.nan}, "norm of the gradient"),
        ({"accuracy": 0.0}, "accuracy of the base model"),
        ({"saved": 0}, "the checkpoint is missing"),
    ],
)
def test_what_would_waste_the_real_run_is_said(change, says):
    (sentence,) = wrong(**change)
    assert says in sentence


def test_a_run_that_ended_early_is_wrong():
    assert judge("verl", {1: GOOD}, 0.5, 0) == [(False, "step 2 was not logged")]


def test_easyr1_is_compared_by_accuracy():
    unknown = {"training__rollout_actor_probs_pearson_corr": math.nan}
    assert wrong("easyr1", **unknown) == []
    (first, *_) = judge("easyr1", {1: GOOD, 2: GOOD}, 0.5, 2)
    assert "lipo_verl.evaluate" in first[1]


@pytest.mark.parametrize(
    "row",
    [
        {"step": 1, "data": {"critic/score/mean": 0.4, "grad_norm": 2.0}},  # verl's
        {"step": 1, "critic": {"score": {"mean": 0.4}}, "grad_norm": 2.0},  # EasyR1's
    ],
)
def test_the_logs_of_both_frameworks_are_read(tmp_path, row):
    (tmp_path / "metrics-from-0.jsonl").write_text(json.dumps(row) + "\n")
    assert steps(tmp_path) == {1: {"critic/score/mean": 0.4, "grad_norm": 2.0}}
