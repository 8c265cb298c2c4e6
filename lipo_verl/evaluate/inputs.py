"""The models and files that the command line names."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lipo_verl.errors import did_you_mean
from lipo_verl.evaluate.errors import EvaluationError

_NAME = re.compile(r"[\w.+@-]+")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SHARDS = "model_world_size_*_rank_*.pt"

Input = TypeVar("Input", "Model", "File")


@dataclass(frozen=True)
class Model:
    """A model to evaluate.

    Attributes:
        name: what its results are called.
        path: a Hugging Face folder, or an id on the Hub.
    """

    name: str
    path: str

    def fingerprint(self) -> str:
        """What tells this model from another one under the same path: names, sizes and times of
        its files; the id alone for one on the Hub."""
        folder = Path(self.path)
        if not folder.is_dir():
            return self.path
        files = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".md")
        facts = sorted((path.name, *_size_and_time(path)) for path in files)
        return hashlib.sha256(repr(facts).encode()).hexdigest()


@dataclass(frozen=True)
class File:
    """A Parquet file of questions, with the name of its results."""

    name: str
    path: Path


def models(texts: Iterable[str]) -> list[Model]:
    """Models from `PATH` or `NAME=PATH`; a folder is called what it is called on disk.

    Raises:
        EvaluationError: a folder isn't there or holds no model, or a name is used twice.
    """

    def model(name: str, path: str) -> Model:
        _check_model(path)
        return Model(name or Path(path).resolve().name, path)

    return _distinct([_parsed(text, model) for text in texts])


def files(texts: Iterable[str]) -> list[File]:
    """Files from `PATH` or `NAME=PATH`; `math/val.parquet` is called `math-val`.

    Raises:
        EvaluationError: a file isn't there, or a name is used twice.
    """

    def file(name: str, path: str) -> File:
        place = Path(path)
        if not place.is_file():
            raise EvaluationError(f"There is no file {path}.{_neighbour(place)}")
        return File(name or f"{place.resolve().parent.name}-{place.stem}", place)

    return _distinct([_parsed(text, file) for text in texts])


def _parsed(text: str, make: Callable[[str, str], Input]) -> Input:
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return make("", text)
    if not _NAME.fullmatch(name):
        raise EvaluationError(f"{text}: {name!r} is no name; use letters, digits and . _ + @ -")
    return make(name, path)


def _distinct(inputs: list[Input]) -> list[Input]:
    seen: dict[str, Input] = {}
    for each in inputs:
        other = seen.setdefault(each.name, each)
        if other is not each:
            raise EvaluationError(
                f"{other.path} and {each.path} are both called {each.name}. Name them: "
                f"NAME={each.path}"
            )
    return inputs


def _check_model(path: str) -> None:
    folder = Path(path)
    if not folder.is_dir():
        if _HUB_ID.fullmatch(path) and not folder.parent.exists():
            return
        raise EvaluationError(f"There is no folder {path}.{_neighbour(folder)}")
    if any(folder.glob(_SHARDS)) or any(folder.glob(f"actor/{_SHARDS}")):
        raise EvaluationError(
            f"{path} holds the FSDP shards of a trainer, which vLLM doesn't read. Make a model of "
            "them first: amm merge, with method mean and this one expert."
        )
    if not (folder / "config.json").is_file():
        raise EvaluationError(f"{path} has no config.json: it isn't a Hugging Face model.")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise EvaluationError(
            f"{path} has a config.json but no weights (*.safetensors). In a trainer's checkpoint "
            "the weights are in the shards beside it: amm merge makes a model of those."
        )


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Nor is there a folder {path.parent}."
    names = (other.name for other in path.parent.iterdir())
    return did_you_mean(path.name, names, f"{path.parent}/")


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, int(status.st_mtime)
