"""Made-up results of the study's trials."""

import numpy as np

from examples.evidence.results import Result, Trial

STEPS = np.tile(np.arange(1, 6), 12)


def result(phase, arm, strength=None, seed=1, accuracy=0.9, tokens=20):
    """A result in which so large a share of each kind of question is right."""
    rng = np.random.default_rng(seed)
    questions = len(STEPS)
    right = np.zeros(questions, bool)
    for steps in range(1, 6):
        kind = np.flatnonzero(STEPS == steps)
        right[rng.permutation(kind)[: round(accuracy * len(kind))]] = True
    return Result(
        Trial(phase, arm, strength, seed),
        {"steps": 2, "settings": ["a=1"]},
        {"tokens": [30.5, float(tokens)], "reward": [0.5, accuracy]},
        STEPS,
        right,
        np.full(questions, tokens),
    )
