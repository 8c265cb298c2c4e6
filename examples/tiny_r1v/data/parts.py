"""The rows that are drawn from one source, as a file that a later run need not make again."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from examples.tiny_r1v.data import files, images
from examples.tiny_r1v.data.dedup import EvaluationIndex, normalise
from examples.tiny_r1v.data.errors import Dropped
from examples.tiny_r1v.data.fetch import Fetched
from examples.tiny_r1v.data.manifest import CONSTANTS
from examples.tiny_r1v.data.pool import map_ahead
from examples.tiny_r1v.data.progress import Progress
from examples.tiny_r1v.data.ranking import rank
from examples.tiny_r1v.data.readers import Example, Raw, decoded
from examples.tiny_r1v.data.schema import earns_the_reward, make_row
from examples.tiny_r1v.data.shuffle import Writer
from examples.tiny_r1v.data.sources import Source
from examples.whole import whole, write_json

MAX_QUESTION = 2000
MAX_ANSWER = 300
"""Characters."""

ANOTHER = "another question about the same picture"

_PLACEHOLDERS = ("<video>", "<audio>")


@dataclass(frozen=True)
class Task:
    """What is to be drawn from a source, and what must not be drawn again.

    seen, pictures: the ``key`` and the ``picture`` of the rows of earlier sources
    """

    expert: str
    source: Source
    fetched: Fetched
    wanted: int
    seed: int
    index: EvaluationIndex
    seen: frozenset[str]
    pictures: frozenset[str]

    def draw(self, id: str, purpose: str, n: int) -> int:
        """A seeded number below n for a question of the source."""
        return rank(self.seed, self.source.name, id, purpose) % n

    def place(self, example: Example) -> tuple[int, str]:
        """What examples are drawn by."""
        return rank(self.seed, self.source.name, example.id), example.id


class Kept(NamedTuple):
    """A row that was drawn: its id, a hash of question and picture, ``Picture.pixels``."""

    id: str
    key: str
    picture: str


def make_part(
    path: Path,
    task: Task,
    evaluation: list[dict[str, Any]],
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the rows drawn from one source; what the manifest says of it, and ``rows``."""
    source, fetched = task.source, task.fetched
    basis = [
        CONSTANTS, task.expert, source.name, source.per_picture, fetched.identity(), task.wanted,
        task.seed,
        [[entry["name"], entry["files"]] for entry in evaluation],
        sorted(task.seen), sorted(task.pictures),
    ]  # fmt: skip
    fingerprint = sha256(repr(basis).encode()).hexdigest()
    described = path.with_suffix(".json")
    if path.exists() and described.exists():
        there = files.read_json(described)
        if there["fingerprint"] == fingerprint:
            progress.say(f"{source.name}: {there['kept']} rows are there already")
            return there
    dropped: Counter[str] = Counter()
    progress.say(f"Reading the questions of {source.name}")
    read, candidates = _candidates(task, dropped)
    kept: list[Kept] = []
    described.unlink(missing_ok=True)
    with (
        progress.counting(f"Pictures of {source.name}") as count,
        whole(path) as unfinished,
        Writer(unfinished) as writer,
    ):
        for row, as_kept in _accepted(task, candidates, dropped, workers, count):
            writer.add(row)
            kept.append(as_kept)
    summary = {
        "name": source.name,
        "repository": source.repository.repo,
        "revision": source.repository.revision,
        "commit": fetched.commit,
        "license": source.license,
        "files": fetched.hashes(),
        "read": read,
        "wanted": task.wanted,
        "kept": len(kept),
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "rows": kept,
        "fingerprint": fingerprint,
    }
    write_json(described, summary)
    return files.read_json(described)


def _candidates(task: Task, dropped: Counter[str]) -> tuple[int, list[Example]]:
    """How many questions were read, and those that may be used, in the order of their ranks.

    Of each picture as many as may be, the first by rank that nothing speaks against.
    """
    read, by_picture = 0, defaultdict(list)
    for asked in task.source.reader.examples(task.fetched.files, task.draw):
        read += len(asked)
        dropped.update(str(reason) for reason in asked if isinstance(reason, Dropped))
        examples = [example for example in asked if isinstance(example, Example)]
        for example in _first(task, sorted(examples, key=task.place), dropped):
            by_picture[example.picture].append(example)
    candidates = []
    for examples in by_picture.values():  # a table can stand in several rows
        once = {example.id: example for example in examples}
        dropped["repeated"] += len(examples) - len(once)
        ranked = sorted(once.values(), key=task.place)
        dropped[ANOTHER] += len(ranked[task.source.per_picture :])
        candidates += ranked[: task.source.per_picture]
    return read, sorted(candidates, key=task.place)


def _first(task: Task, ranked: list[Example], dropped: Counter[str]) -> list[Example]:
    kept: list[Example] = []
    for example in ranked:
        if len(kept) == task.source.per_picture:
            dropped[ANOTHER] += 1
            continue
        try:
            kept.append(_checked(example, task.index))
        except Dropped as reason:
            dropped[str(reason)] += 1
    return kept


def _accepted(
    task: Task,
    candidates: list[Example],
    dropped: Counter[str],
    workers: int,
    count: Callable[[int, int], None],
) -> Iterator[tuple[dict[str, Any], Kept]]:
    """The rows of the first candidates that nothing speaks against, as many as are wanted.

    Pictures are prepared in batches a little larger than what is still wanted, so that large files
    are usually gone through once.
    """
    left, seen, used = iter(candidates), set(task.seen), Counter()
    missing = task.wanted
    while missing and (batch := list(islice(left, missing * 5 // 4 + 16))):
        with_pictures = task.source.reader.pictures(task.fetched.files, batch)
        count(len(batch), 0)
        prepared = {}
        for id, picture in map_ahead(_prepared, with_pictures, workers):
            prepared[id] = picture
            count(0, 1)
        for example in batch:
            if not missing:
                break
            try:
                row, kept = _row(task, example, prepared.pop(example.id), seen, used)
            except Dropped as reason:
                dropped[str(reason)] += 1
                continue
            seen.add(kept.key)
            used[kept.picture] += 1
            missing -= 1
            yield row, kept


def _checked(example: Example, index: EvaluationIndex) -> Example:
    """The example without marks of pictures in its text. Raises Dropped."""
    question = example.question
    text, answer = question.text.replace("<image>", "").strip(), question.answer.strip()
    if not text or not answer:
        raise Dropped("no question or no answer")
    if any(mark in text for mark in _PLACEHOLDERS):
        raise Dropped("mark of another medium in the question")
    if len(text) > MAX_QUESTION or len(answer) > MAX_ANSWER:
        raise Dropped(f"question over {MAX_QUESTION} or answer over {MAX_ANSWER} characters")
    if not earns_the_reward(answer, question.task):
        raise Dropped("answer that the reward can't check")
    if (name := index.question(text)) is not None:
        raise Dropped(f"question of {name}")
    return replace(example, question=question._replace(text=text, answer=answer))


def _prepared(pair: tuple[Example, Raw | Dropped]) -> tuple[str, images.Picture | Dropped]:
    example, raw = pair
    try:
        if isinstance(raw, Dropped):
            raise raw
        return example.id, images.prepare(decoded(raw))
    except Dropped as reason:
        return example.id, reason


def _row(
    task: Task,
    example: Example,
    picture: images.Picture | Dropped,
    seen: set[str],
    used: Counter[str],
) -> tuple[dict[str, Any], Kept]:
    """The row of an example.

    Raises Dropped where it repeats one, or an evaluation's picture, or one that was used as often
    as may be.
    """
    if isinstance(picture, Dropped):
        raise picture
    if (name := task.index.picture(picture.bits)) is not None:
        raise Dropped(f"picture of {name}")
    text, answer, reward_task, _ = example.question
    key = blake2b(normalise(text).encode() + picture.bits, digest_size=16).hexdigest()
    if key in seen:
        raise Dropped("repeated")
    if picture.pixels in task.pictures:
        raise Dropped("picture of an earlier source")
    if used[picture.pixels] == task.source.per_picture:
        raise Dropped(ANOTHER)
    name = task.source.name
    id = f"{name}/{example.id}"
    row = make_row(task.expert, name, id, text, answer, reward_task, picture.data)
    return row, Kept(id, key, picture.pixels)
