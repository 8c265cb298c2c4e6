"""What a smoke run showed, and what that means.

    python -m examples.tiny_r1v.launch.smoke verl|easyr1 OUTPUT

Reads the metrics and the checkpoint that train.sh --smoke left in OUTPUT. Exit code 1 where the
real run would be wasted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from examples.tiny_r1v.launch.resume import last_step
from examples.tiny_r1v.launch.settings import leaves
from examples.tiny_r1v.pick import rows, validations

STEPS, PROMPTS = 2, 64
"""Of a smoke run, as train.sh starts it."""

PEARSON = 0.99
"""Correlation of the tokens' probabilities in vLLM and in the trainer [ours]: bf16 in two programs
gives above 0.999, pictures that one of them does not see about 0.9 and less."""

BLIND = (
    "vLLM does not compute what the trainer computes, so the model would learn from answers that "
    "are not its own. verl: leave actor_rollout_ref.rollout.load_format=auto, see "
    "docs/recipe/training.md; then try one change at a time: enforce_eager=true, another "
    "attention, another vLLM"
)

NOT_COMPARED = (
    "EasyR1 does not compare vLLM with the trainer: compare the accuracy below with that of the "
    "base model on the same file, by python -m lipo_verl.evaluate; far below it, vLLM does not see "
    "the pictures"
)

AGREEMENT = (
    "rollout_actor_probs_pearson_corr",
    "rollout_probs_diff_mean",
    "rollout_probs_diff_max",
)


def steps(output: Path) -> dict[int, dict[str, float]]:
    """Metrics by step and by name, ``critic/score/mean``, of either framework's log."""
    found: dict[int, dict[str, float]] = {}
    for row in rows(output / "metrics-from-0.jsonl"):
        step = row.pop("step")
        values = leaves(row.get("data", row))
        found.setdefault(step, {}).update((name.replace(".", "/"), value) for name, value in values)
    return found


def judge(
    framework: str, metrics: Mapping[int, Mapping[str, float]], accuracy: float | None, saved: int
) -> list[tuple[bool, str]]:
    """Whether each thing that was looked at is as it should be, and a sentence on it.

    metrics:  by step
    accuracy: of the base model, in the validation before training; None: it was not logged
    saved:    step of the last whole checkpoint
    """
    if STEPS not in metrics:
        return [(False, f"step {STEPS} was not logged")]
    first, last = metrics[1], metrics[STEPS]
    rewards = [each.get("critic/score/mean", math.nan) for each in (first, last)]
    cut = first.get("response_length/clip_ratio", math.nan)
    seconds = last.get("perf/time_per_step", math.nan)
    found = [_same_model(first) if framework == "verl" else (True, NOT_COMPARED)]
    if accuracy is not None:
        found.append((accuracy > 0, f"accuracy of the base model before training: {accuracy:.3f}"))
    found += [
        (
            all(reward > 0 for reward in rewards),
            "mean reward: " + ", ".join(f"{reward:.3f}" for reward in rewards),
        ),
        (
            not cut > 0.5,
            f"responses: {first.get('response_length/mean', math.nan):.0f} tokens on average, "
            f"{100 * cut:.0f} % of them cut at the budget",
        ),
    ]
    for name, value in last.items():
        if name.endswith("grad_norm"):
            found.append((math.isfinite(value), f"norm of the gradient: {value:.3g}"))
        elif name.endswith("max_memory_reserved_gb"):
            found.append((True, f"most memory of a GPU, without vLLM's: {value:.0f} GiB"))
    whole = saved == STEPS
    return [
        *found,
        (
            True,
            f"the second step took {seconds:.0f} s for {PROMPTS} prompts; one of 512 takes up to 8 "
            "times as long",
        ),
        (whole, "the checkpoint is " + ("whole" if whole else "missing, or not whole")),
    ]


def _same_model(metrics: Mapping[str, float]) -> tuple[bool, str]:
    """Whether vLLM computes what the trainer computes, by verl's metrics of the first step."""
    pearson, mean, largest = (metrics.get(f"training/{name}", math.nan) for name in AGREEMENT)
    found = (
        f"probabilities of the responses' tokens in vLLM and in the trainer: correlation "
        f"{pearson:.4f}, difference {mean:.4f} on average, {largest:.2f} at most"
    )
    if math.isnan(pearson):
        return False, f"{found}: leave actor_rollout_ref.rollout.calculate_log_probs=true"
    return pearson >= PEARSON, found if pearson >= PEARSON else f"{found}: below {PEARSON}, {BLIND}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("framework", choices=("verl", "easyr1"))
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    output, framework = arguments.output, arguments.framework
    validation = validations(output).get(0)
    found = judge(
        framework,
        steps(output),
        validation and validation.accuracy,
        last_step(framework, output / "checkpoints", mend=False),
    )
    print(f"\nSmoke run, {STEPS} steps of {PROMPTS} prompts, in {output}:")
    for good, sentence in found:
        print(f"{'ok' if good else 'wrong':<6} {sentence}")
    if not all(good for good, _ in found):
        sys.exit("Do not start the real run before that is mended.")
    print("Nothing speaks against the real run: the same command without --smoke.")


if __name__ == "__main__":
    main()
