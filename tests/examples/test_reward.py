"""The quickstart's reward."""

import pytest

from examples.quickstart.reward import compute_score


@pytest.mark.parametrize(
    ("source", "response", "truth", "score"),
    [
        ("quickstart/math", "Answer: 26", "26", 1.0),
        ("quickstart/math", "The width is 9. Answer: 26", "26", 1.0),
        ("quickstart/math", "Answer:  26 \n", "26", 1.0),
        ("quickstart/math", "Answer: 2", "26", 0.0),
        ("quickstart/math", "26", "26", 0.0),
        ("quickstart/math", "", "26", 0.0),
        ("quickstart/math", "Answer: 26 Answer: 4", "26", 0.0),
        ("quickstart/structure", "Answer: 4 Answer: red", "red", 1.0),
        ("quickstart/structure", "Answer: red bar", "red", 0.0),
        ("quickstart/ocr", "Answer: K7UX", "K7UX", 1.0),
        ("quickstart/ocr", "Answer: K7U", "K7UX", 0.75),
        ("quickstart/ocr", "Answer: 9999", "K7UX", 0.0),
        ("quickstart/ocr", "Answer:", "K7UX", 0.0),
        ("quickstart/ocr", "K7UX", "K7UX", 0.0),
    ],
)
def test_score(source, response, truth, score):
    result = compute_score(
        data_source=source, solution_str=response, ground_truth=truth, extra_info={"index": 0}
    )
    assert isinstance(result, float)
    assert result == pytest.approx(score)
