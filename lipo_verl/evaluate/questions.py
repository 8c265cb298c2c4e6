"""The questions of a Parquet file in the training schema (docs/recipe/evaluation.md)."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lipo_verl.errors import did_you_mean
from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.rewards import truths
from lipo_verl.rewards.errors import TruthError
from lipo_verl.rewards.scoring import RewardConfig

REQUIRED = ("data_source", "prompt", "reward_model")
IMAGES = "images"
PLACE = "<image>"


@dataclass(frozen=True)
class Question:
    """A row without its pictures.

    Attributes:
        row: its number in the file, from 0.
        id: `extra_info["id"]` where there is one, else the row.
        data_source: where it comes from; decides the reward.
        task: the reward's task.
        messages: the chat, `<image>` where a picture stands.
        truth: what `lipo_verl.rewards` compares with.
    """

    row: int
    id: str
    data_source: str
    task: str
    messages: list[dict[str, str]]
    truth: Any

    @property
    def images(self) -> int:
        """How many pictures belong to it."""
        return sum(message["content"].count(PLACE) for message in self.messages)


class Questions:
    """The first questions of a file; pictures are read when they are needed.

    Args:
        path: a Parquet file with the columns `data_source`, `prompt`, `reward_model`, and
            `images` where there are pictures.
        reward: says the task of each row.
        limit: at most so many.

    Raises:
        EvaluationError: the file isn't in the schema.
        RewardSetupError: nothing says how to score a row.
    """

    def __init__(self, path: Path, reward: RewardConfig, limit: int | None = None) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise EvaluationError(f"{path} isn't a Parquet file: {error}") from None
        columns = self._file.schema_arrow.names
        for column in REQUIRED:
            if column not in columns:
                raise EvaluationError(
                    f"{path} has no column {column}.{did_you_mean(column, columns)} "
                    f"Its columns: {', '.join(columns)}."
                )
        wanted = [name for name in (*REQUIRED, "extra_info") if name in columns]
        rows = self._file.read(columns=wanted).slice(0, limit).to_pylist()
        if not rows:
            raise EvaluationError(f"{path} has no rows.")
        self.all = [_question(path, number, row, reward) for number, row in enumerate(rows)]
        self.images = max(question.images for question in self.all)
        if self.images and IMAGES not in columns:
            raise EvaluationError(f"{path} has prompts with {PLACE}, but no column {IMAGES}.")

    def __len__(self) -> int:
        return len(self.all)

    def fingerprint(self) -> str:
        """A hash of everything but the pictures: the same questions, in the same order."""
        facts = [(each.id, each.data_source, each.messages, each.truth) for each in self.all]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()

    def batches(self, size: int) -> Iterator[tuple[list[Question], list[list[dict[str, Any]]]]]:
        """The questions in order, at most `size` at a time, with their conversations: messages as
        vLLM's `LLM.chat` takes them, pictures in their places."""
        if not self.images:
            for start in range(0, len(self), size):
                part = self.all[start : start + size]
                yield part, [self._conversation(question, []) for question in part]
            return
        start = 0
        for batch in self._file.iter_batches(size, columns=[IMAGES]):
            part = self.all[start : start + len(batch)]
            pictures = batch.slice(0, len(part)).column(0).to_pylist()
            if part:
                yield (
                    part,
                    [
                        self._conversation(question, images or [])
                        for question, images in zip(part, pictures, strict=True)
                    ],
                )
            start += len(batch)
            if start >= len(self):
                return

    def _conversation(
        self, question: Question, images: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        if question.images != len(images):
            raise EvaluationError(
                f"{self.path}, row {question.row}: {question.images} times {PLACE} in the prompt, "
                f"but {len(images)} pictures."
            )
        left = iter(images)
        return [
            {
                "role": message["role"],
                "content": [
                    {"type": "image_pil", "image_pil": self._picture(question, next(left))}
                    if part == PLACE
                    else {"type": "text", "text": part}
                    for part in re.split(f"({PLACE})", message["content"])
                    if part
                ],
            }
            for message in question.messages
        ]

    def _picture(self, question: Question, image: Mapping[str, Any]) -> Image.Image:
        where = f"{self.path}, row {question.row}"
        if image.get("bytes") is None and not image.get("path"):
            raise EvaluationError(f"{where}: a picture has neither bytes nor a path.")
        try:
            if image.get("bytes") is not None:
                return Image.open(io.BytesIO(image["bytes"])).convert("RGB")
            return Image.open(self.path.parent / image["path"]).convert("RGB")
        except OSError as error:
            raise EvaluationError(f"{where}: a picture can't be read: {error}") from None


def _question(path: Path, number: int, row: dict[str, Any], reward: RewardConfig) -> Question:
    messages, model = row["prompt"], row["reward_model"]
    texts = isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("content"), str)
        for message in messages
    )
    if not texts or not messages:
        raise EvaluationError(
            f"{path}, row {number}: prompt must be a list of messages with role and content."
        )
    if not isinstance(model, dict) or model.get("ground_truth") is None:
        raise EvaluationError(f"{path}, row {number}: reward_model has no ground_truth.")
    try:
        truths.texts(model["ground_truth"])
    except TruthError as error:
        raise EvaluationError(f"{path}, row {number}: {error}") from None
    extra = row.get("extra_info") or {}
    source = row["data_source"]
    return Question(
        row=number,
        id=str(extra.get("id", number)),
        data_source=source,
        task=reward.task_of(source, extra),
        messages=messages,
        truth=model["ground_truth"],
    )
