"""The command line of the evaluation."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lipo_verl.evaluate.engine import Sampling
from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.inputs import files, models
from lipo_verl.evaluate.run import evaluate
from lipo_verl.rewards.errors import RewardErrorRate, RewardSetupError
from lipo_verl.rewards.scoring import RewardConfig

BAD_INPUT, STOPPED = 2, 130


def main() -> None:
    """Run the evaluation that the command line asks for."""
    arguments = _parser().parse_args()
    try:
        summary = evaluate(
            models(arguments.models),
            files(arguments.data),
            arguments.output,
            sampling=Sampling(arguments.temperature, arguments.max_tokens, arguments.seed),
            reward=RewardConfig.parse(_settings("--reward", arguments.reward)),
            limit=arguments.limit,
            tensor_parallel=arguments.tensor_parallel,
            options=_settings("--vllm", arguments.vllm),
            baseline=arguments.baseline,
        )
    except (EvaluationError, RewardSetupError, RewardErrorRate) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes.", file=sys.stderr)
        sys.exit(STOPPED)
    print(f"All figures: {summary}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lipo_verl.evaluate",
        description="Accuracy and length of models' answers to the questions of Parquet files.",
        epilog="What is finished in the output folder is not run again. docs/recipe/evaluation.md",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="Hugging Face folder or Hub id, NAME=… gives its results another name",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="FILE",
        help="Parquet files in the training schema; NAME=… too",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--baseline", metavar="NAME", help="compare every other model with this one, by question"
    )
    parser.add_argument(
        "--limit", type=_positive, metavar="N", help="at most the first N questions of a file"
    )
    parser.add_argument(
        "--temperature", type=float, default=Sampling.temperature, help="0, the default, is greedy"
    )
    parser.add_argument("--seed", type=int, default=Sampling.seed, help="of sampling; default 0")
    parser.add_argument(
        "--max-tokens",
        type=_positive,
        default=Sampling.max_tokens,
        metavar="N",
        help=f"longest answer; default {Sampling.max_tokens}",
    )
    parser.add_argument(
        "--tensor-parallel", type=_positive, default=1, metavar="N", help="GPUs for one model"
    )
    parser.add_argument(
        "--reward",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the reward, as in training: task=exact, tasks.my/data=ocr, extract=boxed",
    )
    parser.add_argument(
        "--vllm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of vllm.LLM: max_model_len=8192, gpu_memory_utilization=0.8",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _settings(option: str, texts: list[str]) -> dict[str, Any]:
    """Nested settings from `key=value` and `key.part=value`; values are JSON or plain text."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise EvaluationError(f"{option} {text}: write KEY=VALUE.")
        group, dot, part = key.partition(".")
        if dot:
            settings.setdefault(group, {})[part] = _value(value)
        else:
            settings[key] = _value(value)
    return settings


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(text, text)


if __name__ == "__main__":
    main()
