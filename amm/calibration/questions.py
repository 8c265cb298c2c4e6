"""Questions of a file in the training schema, and the answers that an evaluation left.

A Parquet or JSON Lines file with `prompt` (a text, or chat messages with `<image>` where a picture
stands) and, where there are pictures, `images` (bytes or paths, relative to the file).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amm._requirements import require
from amm.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

PLACE = "<image>"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        row: its number in the file, from 0.
        messages: the chat, `<image>` where a picture stands.
        images: the pictures' encoded bytes.
    """

    row: int
    messages: tuple[tuple[str, str], ...]
    images: tuple[bytes, ...]

    def pictures(self) -> list[Image]:
        """The pictures, in RGB."""
        from PIL import Image

        return [Image.open(io.BytesIO(data)).convert("RGB") for data in self.images]

    def chat(self, response: str | None = None) -> list[dict[str, Any]]:
        """Messages as processors take them, with an answer at the end if one is given."""
        left = iter(self.pictures())
        chat: list[dict[str, Any]] = []
        for role, text in self.messages:
            content: Any = text
            if self.images:
                content = [
                    {"type": "image", "image": next(left)}
                    if part == PLACE
                    else {"type": "text", "text": part}
                    for part in re.split(f"({PLACE})", text)
                    if part
                ]
            chat.append({"role": role, "content": content})
        if response is not None:
            answer: Any = [{"type": "text", "text": response}] if self.images else response
            chat.append({"role": "assistant", "content": answer})
        return chat

    def identity(self) -> str:
        """The same for the same question in another file: a hash of its words and its pixels."""
        digest = hashlib.sha256()
        for role, text in self.messages:
            digest.update(f"{role}\n{' '.join(text.lower().split())}\n".encode())
        for picture in self.pictures():
            digest.update(f"{picture.size}".encode() + picture.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Answer:
    """An answer as `python -m lipo_verl.evaluate` writes it.

    Attributes:
        response: the text.
        tokens: its length.
        accuracy: 0 to 1.
    """

    response: str
    tokens: float
    accuracy: float


def read_questions(path: Path) -> list[Question]:
    """All questions of a file.

    Raises:
        InputError: it can't be read, or a row isn't in the schema.
    """
    questions = [_question(path, number, row) for number, row in enumerate(_rows(path))]
    if not questions:
        raise InputError(f"{path} has no rows.")
    return questions


def read_answers(files: Sequence[Path], questions: Sequence[Question]) -> dict[int, list[Answer]]:
    """Row of a question → its answers, of all files.

    Args:
        files: JSON Lines with `row`, `response`, `tokens` and `accuracy`, and `prompt` if they say
            what was asked.
        questions: what they answer.

    Raises:
        InputError: a file can't be read, or answers other questions.
    """
    texts = {question.row: question.messages[-1][1] for question in questions}
    found: dict[int, list[Answer]] = defaultdict(list)
    for file in files:
        for number, line in enumerate(_json_lines(file)):
            where = f"{file}, line {number + 1}"
            try:
                row, answer = (
                    int(line["row"]),
                    Answer(str(line["response"]), float(line["tokens"]), float(line["accuracy"])),
                )
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{where}: an answer has row, response, tokens and accuracy, as"
                    f" `python -m lipo_verl.evaluate` writes them ({error!r})."
                ) from None
            if row not in texts or line.get("prompt", texts[row]) != texts[row]:
                raise InputError(
                    f"{where} answers another question than row {row} of the questions; give the"
                    " file that was evaluated."
                )
            found[row].append(answer)
    return dict(found)


def refuse_overlap(questions: Sequence[Question], held_out: Iterable[Path]) -> None:
    """Refuse questions that a model will be judged by.

    Raises:
        InputError: one of them is in a file that is held out.
    """
    ours = {question.identity(): question.row for question in questions}
    for path in held_out:
        both = [q.row for q in read_questions(path) if q.identity() in ours]
        if both:
            raise InputError(
                f"{len(both)} of the calibration's questions are in {path}, which is held out for"
                f" evaluation (its row {both[0]}, for one): figures on it would mean nothing."
                " Calibrate on training questions."
            )


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
        return
    require("calibrate")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} isn't a Parquet or .jsonl file: {error}") from None
    names = file.schema_arrow.names
    if "prompt" not in names:
        raise InputError(f"{path} has no column prompt. {did_you_mean('prompt', names)}")
    for batch in file.iter_batches(256, columns=[n for n in ("prompt", "images") if n in names]):
        yield from batch.to_pylist()


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number + 1}: a row has keys and values.")
                yield row
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} can't be read as JSON Lines: {error}") from None


def _question(path: Path, number: int, row: Mapping[str, Any]) -> Question:
    where, prompt = f"{path}, row {number}", row.get("prompt")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not messages or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    ):
        raise InputError(f"{where}: prompt must be a text, or messages with role and content.")
    images = tuple(_picture(path, where, image) for image in row.get("images") or ())
    places = sum(message["content"].count(PLACE) for message in messages)
    if places != len(images):
        raise InputError(f"{where}: {places} times {PLACE} in the prompt, {len(images)} pictures.")
    return Question(number, tuple((m["role"], m["content"]) for m in messages), images)


def _picture(path: Path, where: str, image: Any) -> bytes:
    given = image if isinstance(image, dict) else {"path": image}
    if isinstance(given.get("bytes"), bytes):
        return given["bytes"]
    try:
        return (path.parent / given["path"]).read_bytes()
    except (KeyError, TypeError, OSError) as error:
        raise InputError(f"{where}: a picture can't be read ({error}).") from None
