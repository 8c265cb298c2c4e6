"""The ten evaluation sets of the paper, to keep their questions and pictures out of training.

Every question and every picture counts, whatever the columns around it are called: pictures are
found by their type. CharXiv's descriptive questions are template numbers and not compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.tiny_r1v.data import files
from examples.tiny_r1v.data.dedup import EvaluationIndex, normalise
from examples.tiny_r1v.data.errors import DataError, Dropped
from examples.tiny_r1v.data.fetch import Fetched, Repository, fetch
from examples.tiny_r1v.data.images import decode, perceptual_hash
from examples.tiny_r1v.data.manifest import FORMAT
from examples.tiny_r1v.data.pool import map_ahead
from examples.whole import write_json

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_OTHER_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set: its repository and the column, or JSON key, of its questions."""

    name: str
    repository: Repository
    question: str = "question"


EVALUATION_SETS = (
    EvaluationSet("MathVista", Repository("AI4Math/MathVista", ("data/test*.parquet",))),
    EvaluationSet("MathVision", Repository("MathLLMs/MathVision", ("data/test*.parquet",))),
    EvaluationSet("MathVerse", Repository("AI4Math/MathVerse", ("testmini.parquet",))),
    EvaluationSet("WeMath", Repository("We-Math/We-Math", ("data/testmini*.parquet",))),
    EvaluationSet("ChartQA", Repository("HuggingFaceM4/ChartQA", ("data/test*.parquet",)), "query"),
    EvaluationSet(
        "CharXiv",
        Repository("princeton-nlp/CharXiv", ("val.parquet", "test.parquet")),
        "reasoning_q",
    ),
    EvaluationSet("OCRBench", Repository("echo840/OCRBench", ("data/test*.parquet",))),
    EvaluationSet("OCR-Reasoning", Repository("mx262/OCR-Reasoning", ("*",))),
    EvaluationSet("MME", Repository("lmms-lab/MME", ("data/test*.parquet",))),
    EvaluationSet("MMStar", Repository("Lin-Chen/MMStar", ("mmstar.parquet",))),
)


def load_index(
    cache: Path,
    seed: int,
    source_dir: Path | None,
    workers: int,
    advance: Callable[[str], None],
) -> tuple[EvaluationIndex, list[dict[str, Any]]]:
    """The index of all ten sets, and what the manifest says of each.

    cache:   folder for what was read of each set, so that it is read once
    advance: called with what is being done

    Raises DataError where a set can't be had or read, or has no questions or no pictures.
    """
    index, described = EvaluationIndex(), []
    for evaluation in EVALUATION_SETS:
        advance(f"Reading the evaluation set {evaluation.name}")
        fetched = fetch(evaluation.repository, seed, source_dir)
        path = cache / f"{evaluation.name}.json"
        content = files.read_json(path) if path.exists() else {}
        if content.get("identity") != _identity(fetched):
            content = _read(evaluation, fetched, workers)
            write_json(path, content)
        if content["unreadable"]:
            advance(f"{content['unreadable']} pictures of {evaluation.name} can't be decoded: rows "
                    "that have them are not left out")  # fmt: skip
        index.add(
            evaluation.name,
            content["questions"],
            (bytes.fromhex(bits) for bits in content["pictures"]),
        )
        described.append(
            {
                "name": evaluation.name,
                "repository": evaluation.repository.repo,
                "commit": fetched.commit,
                "files": content["files"],
                "questions": len(content["questions"]),
                "pictures": len(content["pictures"]),
                "unreadable": content["unreadable"],
            }
        )
    return index, described


def _read(evaluation: EvaluationSet, fetched: Fetched, workers: int) -> dict[str, Any]:
    questions: set[str] = set()
    pictures: set[str] = set()
    unreadable = 0
    for path in fetched.files.values():
        if path.suffix.lower() in _OTHER_ARCHIVES:
            raise DataError(
                f"{path}: {path.suffix} archives are not read here, so training rows can't be kept "
                f"apart from {evaluation.name}. Pack its contents as zip, or correct evaluation.py."
            )
        questions.update(normalise(text) for text in _questions(path, evaluation.question))
        for bits in map_ahead(_hashed, _pictures(path), workers):
            if bits is None:
                unreadable += 1
            else:
                pictures.add(bits)
    for what, found in (("question", questions), ("picture", pictures)):
        if not found:
            names = ", ".join(fetched.files)
            raise DataError(
                f"No {what} was found in {evaluation.repository.repo} ({names}): its layout has "
                "changed, and training rows can't be kept apart from it. Correct evaluation.py."
            )
    return {
        "identity": _identity(fetched),
        "files": fetched.hashes(),
        "questions": sorted(questions),
        "pictures": sorted(pictures),
        "unreadable": unreadable,
    }


def _identity(fetched: Fetched) -> list[Any]:
    return [FORMAT, fetched.identity()]


def _hashed(data: bytes) -> str | None:
    try:
        _, flat = decode(data)
        return perceptual_hash(flat).hex()
    except Dropped:
        return None


def _questions(path: Path, key: str) -> Iterator[str]:
    if path.suffix == ".parquet":
        yield from (row[key] for row in files.rows(path, [key]) if row[key])
    elif path.suffix in (".json", ".jsonl"):
        yield from _values(files.read_json(path), key)


def _values(content: Any, key: str) -> Iterator[str]:
    if isinstance(content, dict):
        if isinstance(content.get(key), str):
            yield content[key]
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from _values(item, key)


def _pictures(path: Path) -> Iterator[bytes]:
    if path.suffix == ".parquet":
        file = files.open_parquet(path, [])
        columns = files.picture_columns(file.schema_arrow)
        for batch in file.iter_batches(100, columns=columns):
            for row in batch.to_pylist():
                yield from (data for value in row.values() for data in files.picture_bytes(value))
    elif path.suffix == ".zip":
        with files.open_archive(path) as archive:
            for name in archive.namelist():
                if name.lower().endswith(_IMAGE_SUFFIXES) and not name.startswith("__MACOSX/"):
                    yield archive.read(name)
    elif path.suffix.lower() in _IMAGE_SUFFIXES:
        yield path.read_bytes()
