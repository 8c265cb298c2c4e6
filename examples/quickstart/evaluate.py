"""Samples one answer to every validation question with vLLM, and scores it.

    python -m examples.quickstart.evaluate --data data/ --output eval/ MODEL [MODEL ...]

Writes ``<output>/<model's name>.json`` for every model that has none yet.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from examples.quickstart.files import write_whole
from examples.quickstart.reward import compute_score
from examples.quickstart.tasks import TASKS
from lipo_verl.cpu import torch_extensions

SEED = 0


def evaluate(models: list[Path], data: Path, output: Path, samples: int, budget: int) -> None:
    """Evaluates every model on the first ``samples`` validation rows of every task.

    budget: the longest answer in tokens; the temperature is 1, as in training
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    torch_extensions.install()
    from vllm import LLM, SamplingParams

    questions = {task: _questions(data / task / "val.parquet", samples) for task in TASKS}
    for model in models:
        target = output / f"{model.name}.json"
        if target.exists():
            continue
        llm = LLM(
            str(model),
            dtype="float32",
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=256,
            seed=SEED,
            limit_mm_per_prompt={"image": 1, "video": 0},
        )
        sampling = SamplingParams(temperature=1.0, max_tokens=budget)
        template = llm.get_tokenizer().apply_chat_template
        result = {}
        for task, rows in questions.items():
            prompts = [_prompt(row, template) for row in rows]
            answers = [each.outputs[0] for each in llm.generate(prompts, sampling, use_tqdm=False)]
            result[task] = _figures(rows, answers)
            print(f"{model.name:<18} {task:<10} {_line(result[task])}", flush=True)
        write_whole(target, json.dumps(result, indent=1))
        del llm


def _questions(path: Path, count: int) -> list[dict[str, Any]]:
    rows = pq.read_table(path).slice(0, count).to_pylist()
    if len(rows) < count:
        raise ValueError(f"{path} has {len(rows)} rows, {count} were asked for")
    return rows


def _prompt(row: dict[str, Any], template: Any) -> dict[str, Any]:
    text = row["prompt"][0]["content"].removeprefix("<image>")
    content = [{"type": "image"}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return {
        "prompt": template(messages, add_generation_prompt=True, tokenize=False),
        "multi_modal_data": {"image": Image.open(io.BytesIO(row["images"][0]["bytes"]))},
    }


def _figures(rows: list[dict[str, Any]], answers: list[Any]) -> dict[str, Any]:
    scores = [
        compute_score(row["data_source"], answer.text, row["reward_model"]["ground_truth"])
        for row, answer in zip(rows, answers, strict=True)
    ]
    lengths = [len(answer.token_ids) for answer in answers]
    return {
        "accuracy": sum(scores) / len(scores),
        "mean_response_tokens": sum(lengths) / len(lengths),
        "samples": len(scores),
        "truncated": sum(answer.finish_reason == "length" for answer in answers) / len(answers),
    }


def _line(figures: dict[str, Any]) -> str:
    return (
        f"accuracy {figures['accuracy']:.3f}  "
        f"{figures['mean_response_tokens']:5.1f} tokens  {figures['samples']} samples"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="Hugging Face folders")
    parser.add_argument("--data", type=Path, required=True, help="folder that data.py wrote")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=500, help="questions per task")
    parser.add_argument("--budget", type=int, default=64, help="longest answer in tokens")
    evaluate(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
