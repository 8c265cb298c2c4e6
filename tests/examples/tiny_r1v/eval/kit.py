"""Files as VLMEvalKit (commit e8e78f0) leaves them, made as it makes them."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

METRICS = {
    "MathVista_MINI": {
        "Task&Skill=Overall|tot": 1000,
        "Task&Skill=Overall|prefetch_rate": 90.0,
        "Task&Skill=Overall|acc": 65.5,
        "Task&Skill=algebra|acc": 60.0,
    },
    "MathVision": {"Subject=Overall|acc": 23.7, "Subject=algebra|acc": 20.0},
    "MathVerse_MINI_Vision_Only": {
        "split=Vision Only|Overall": 38.0,
        "split=Vision Only|Plane Geometry": 40.0,
    },
    "WeMath": {},  # its scores are texts such as 30.80%, which VLMEvalKit's summary leaves out
    "ChartQA_TEST": {"test_human": 79.6, "test_augmented": 90.0, "Overall": 84.8},
    "CharXiv_reasoning_val": {"Text-in-Chart": 0.33, "Overall": 0.318},
    "OCRBench": {"Text Recognition": 260, "Final Score": 835, "Final Score Norm": 83.5},
    "OCR_Reasoning": {"Task=Overall|acc": 16.2, "Task=Overall_RP|acc": 30.0},
    "MME": {"perception": 1650.0, "reasoning": 650.0, "OCR": 180.0},
    "MMStar": {"split=none|Overall": 0.608, "split=none|math": 0.5},
}
"""``metrics`` of ``status.json`` for a model with the paper's scores; the keys are what its own
scoring functions gave, put through its own flattening."""


def predictions(
    work: Path, model: str, dataset: str, answers: Sequence[str], run: str = "T20260101-000000"
) -> Path:
    """A prediction file as ``PRED_FORMAT=tsv`` makes it, with an awkward question in it."""
    folder = work / model / run
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{model}_{dataset}.tsv"
    frame = pd.DataFrame(
        {
            "index": range(len(answers)),
            "question": 'What "is"\tthis?\nReally?',
            "answer": "7",
            "prediction": answers,
        }
    )
    frame.to_csv(file, sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
    return file


def status(
    work: Path,
    model: str,
    metrics: Mapping[str, Mapping[str, float]],
    errors: Mapping[str, str] | None = None,
    run: str = "T20260101-000000",
) -> Path:
    """``status.json`` of a run that has scored."""
    folder = work / model / run
    folder.mkdir(parents=True, exist_ok=True)
    datasets: dict[str, dict] = {
        name: {"status": "done", "judge_model": "gpt-4o-mini"}
        for name in (*metrics, *(errors or {}))
    }
    for name, values in metrics.items():
        if values:
            datasets[name]["metrics"] = dict(values)
    for name, message in (errors or {}).items():
        datasets[name]["error_message"] = message
    file = folder / "status.json"
    content = {"schema_version": "1.0", "eval_id": run, "model_name": model, "datasets": datasets}
    file.write_text(json.dumps(content, indent=2))
    return file


def wemath(work: Path, model: str, strict: str, run: str = "T20260101-000000") -> Path:
    """WeMath's own file of scores."""
    file = work / model / run / f"{model}_WeMath_gpt4o-mini_score.csv"
    frame = pd.DataFrame(
        {
            "Model": [None],
            "Score (Strict)": [strict],
            "InsufficientKnowledge (Strict)": ["40.00% (210)"],
            "Score (Loose)": ["44.10%"],
        }
    )
    frame.to_csv(file, index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
    return file
