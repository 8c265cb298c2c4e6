"""vLLM for offline answering, on GPUs or on a CPU."""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lipo_verl.cpu import torch_extensions
from lipo_verl.errors import did_you_mean
from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.inputs import Model

CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; unset, it takes most of the machine's memory
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # spares each model the start of a process
}
CPU_OPTIONS = {
    "dtype": "float32",
    "enforce_eager": True,
    # A prompt that is read in parts and has a seed of its own needs a generator that rewinds; the
    # CPU's does not (vLLM 0.30).
    "enable_chunked_prefill": False,
}


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: 0 is greedy.
        max_tokens: the budget of an answer.
        seed: of the first row; every row has one of its own, so that its answer doesn't depend on
            what else is answered with it.
    """

    temperature: float = 0.0
    max_tokens: int = 2048
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What the model wrote, its length in tokens, and whether it was cut at the budget."""

    text: str
    tokens: int
    truncated: bool


class Engine:
    """A model that answers; made by `load`."""

    def __init__(self, llm: Any, sampling: Sampling) -> None:
        self._llm = llm
        self._sampling = sampling

    def close(self) -> None:
        """Let go of the model: end vLLM's process, or free what it holds in this one."""
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()

    def answer(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], rows: Sequence[int]
    ) -> list[Answer]:
        """One answer to each conversation.

        Args:
            conversations: messages with pictures, as `LLM.chat` takes them.
            rows: the questions' numbers, which choose the seeds.

        Raises:
            ValueError: a prompt is too long.
        """
        outputs = self._llm.chat(
            conversations, [self._parameters(row) for row in rows], use_tqdm=False
        )
        return [
            Answer(each.text, len(each.token_ids), each.finish_reason == "length")
            for (each,) in (output.outputs for output in outputs)
        ]

    def _parameters(self, row: int) -> Any:
        from vllm import SamplingParams

        greedy = self._sampling.temperature == 0
        return SamplingParams(
            temperature=self._sampling.temperature,
            max_tokens=self._sampling.max_tokens,
            seed=None if greedy else self._sampling.seed + row,
        )


@contextmanager
def load(
    model: Model,
    sampling: Sampling,
    *,
    images: int,
    tensor_parallel: int = 1,
    options: Mapping[str, Any],
) -> Iterator[Engine]:
    """The model in vLLM, until the block is left.

    Args:
        images: most pictures of one question.
        options: further arguments of `vllm.LLM`; they win.

    Raises:
        EvaluationError: vLLM can't load it.
    """
    settings = {
        "max_model_len": -1,  # as long as fits
        "limit_mm_per_prompt": {"image": images, "video": 0},
        "tensor_parallel_size": tensor_parallel,
        "seed": sampling.seed,
        "use_tqdm_on_load": False,
        **({} if torch.cuda.is_available() else CPU_OPTIONS),
        **options,
    }
    try:
        engine = Engine(_vllm().LLM(model.path, **settings), sampling)
    except Exception as error:
        raise EvaluationError(
            f"vLLM can't load {model.path}: {error} (VLLM_LOGGING_LEVEL=INFO shows its log)"
        ) from error
    try:
        yield engine
    finally:
        engine.close()


def check_options(options: Mapping[str, Any]) -> None:
    """Raise EvaluationError for an argument that vLLM doesn't have."""
    known = _vllm().EngineArgs.__dataclass_fields__
    for key in options:
        if key not in known:
            raise EvaluationError(f"vLLM has no option {key}.{did_you_mean(key, known)}")


def _vllm() -> Any:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not torch.cuda.is_available():
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    torch_extensions.install()
    try:
        import vllm
    except ImportError as error:
        raise EvaluationError(
            f"vLLM can't be imported ({error}). In a clone of lipo_verl, pip install "
            "'.[gpu,evaluate]', or '.[cpu,evaluate]' on a machine without a GPU."
        ) from error
    return vllm
