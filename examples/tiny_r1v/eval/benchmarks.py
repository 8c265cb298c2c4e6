"""The paper's ten benchmarks: what VLMEvalKit calls them, where it leaves the score, and what the
paper reports.

VLMEvalKit as of commit e8e78f0 (August 2026). The paper says that it evaluates with VLMEvalKit [V],
not which split or metric; where there are several, the choice is our reading of its base model's
score [I]: MathVerse 31.2 and WeMath 22.9 for Qwen2.5-VL-3B are Vision Only and the strict score,
CharXiv 31.3 are the reasoning questions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from amm import InputError


@dataclass(frozen=True)
class Benchmark:
    """A column of the paper's main result.

    Attributes:
        name: the paper's.
        dataset: VLMEvalKit's.
        dataset_class: VLMEvalKit's, for its JSON configuration.
        metrics: regular expressions; the sum of what they match is the score.
        scale: factor that makes it the paper's unit.
        in_csv: the score isn't in ``status.json``, but in ``…_score.csv``.
        base: the paper's score of Qwen2.5-VL-3B [F].
        tiny_r1v: the paper's score of Tiny-R1V-3B [V].
    """

    name: str
    dataset: str
    dataset_class: str
    metrics: tuple[str, ...]
    base: float
    tiny_r1v: float
    scale: float = 1.0
    in_csv: bool = False

    def score(self, metrics: Mapping[str, float]) -> float:
        """The score from VLMEvalKit's flat metrics.

        Raises amm.InputError where they aren't what this was made for.
        """
        total = 0.0
        for pattern in self.metrics:
            found = [key for key in metrics if re.fullmatch(pattern, key)]
            if len(found) != 1:
                raise InputError(
                    f"{self.dataset}: one metric {pattern} was expected, there are {len(found)} "
                    f"among {', '.join(metrics) or 'none'}. Is it another version of VLMEvalKit?"
                )
            total += metrics[found[0]]
        return total * self.scale


_OVERALL = r"(split=[^|]*\|)?Overall"

BENCHMARKS = (
    Benchmark(
        "MathVista", "MathVista_MINI", "MathVista", (r"Task&Skill=Overall\|acc",), 62.3, 65.5
    ),
    Benchmark("MathVision", "MathVision", "MathVision", (r"Subject=Overall\|acc",), 21.2, 23.7),
    Benchmark("MathVerse", "MathVerse_MINI_Vision_Only", "MathVerse", (_OVERALL,), 31.2, 38.0),
    Benchmark("WeMath", "WeMath", "WeMath", (r"Score \(Strict\)",), 22.9, 30.8, in_csv=True),
    Benchmark("ChartQA", "ChartQA_TEST", "ImageVQADataset", (_OVERALL,), 84.0, 84.8),
    Benchmark("CharXiv", "CharXiv_reasoning_val", "CharXiv", (_OVERALL,), 31.3, 31.8, scale=100),
    Benchmark("OCRBench/10", "OCRBench", "OCRBench", ("Final Score Norm",), 79.7, 83.5),
    Benchmark(
        "OCR-Reasoning", "OCR_Reasoning", "OCR_Reasoning", (r"Task=Overall\|acc",), 12.2, 16.2
    ),
    Benchmark("MME", "MME", "ImageYORNDataset", ("perception", "reasoning"), 2157, 2300),
    Benchmark("MMStar", "MMStar", "ImageMCQDataset", (_OVERALL,), 55.9, 60.8, scale=100),
)
