"""The quickstart's reward, as verl's ``custom_reward_function`` calls it."""

from __future__ import annotations

from typing import Any

from rapidfuzz.distance import Levenshtein

MARK = "Answer:"


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kwargs: Any,
) -> float:
    """Score a response from 0 to 1 by what follows its last ``Answer:``.

    The ``ocr`` task is scored by Levenshtein similarity, the others by equality; white space
    counts for nothing at the ends and as one space elsewhere.
    """
    _, mark, answer = solution_str.rpartition(MARK)
    if not mark:
        return 0.0
    answer, truth = " ".join(answer.split()), " ".join(ground_truth.split())
    if data_source.rpartition("/")[2] == "ocr":
        return Levenshtein.normalized_similarity(answer, truth)
    return float(answer == truth)
