"""From a dataset's files to questions, and to the pictures that they are about.

Reading goes in two passes: first all questions, without their pictures; then the pictures of those
that were drawn.
"""

import io
import json
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from examples.tiny_r1v.data import charts, converters, files
from examples.tiny_r1v.data.charts import Pick
from examples.tiny_r1v.data.errors import DataError, Dropped
from examples.tiny_r1v.data.images import MAX_PIXELS
from examples.tiny_r1v.data.question import Question
from examples.tiny_r1v.data.tables import Table, draw


@dataclass(frozen=True)
class Example:
    """A question about a picture.

    id:      unique in the source, and the same whatever order files are read in
    picture: what the reader finds the picture by; examples about one picture have the same
    """

    id: str
    question: Question
    picture: Any


Raw = bytes | Image.Image | Table
"""A picture before it is prepared: encoded, decoded, or a table to draw."""

Files = dict[str, Path]
Draw = Callable[..., int]
"""``draw(row's id, purpose, n)``: a seeded number below n."""


@dataclass(frozen=True)
class ParquetReader:
    """Parquet files with one picture, or one table, in a row.

    convert: a row's columns to the question; it raises Dropped for a row that is left out
    columns: those that ``convert`` gets
    picture: the column of the picture; None where ``convert`` gives a table
    """

    convert: Callable[[dict[str, Any], Pick], Question]
    columns: tuple[str, ...]
    picture: str | None = None

    def examples(self, files_: Files, draw: Draw) -> Iterator[Example | Dropped]:
        """All questions of the files, and why the others are none."""
        for name, path in files_.items():
            needed = [*self.columns, *([self.picture] if self.picture else [])]
            files.open_parquet(path, needed)
            for number, row in enumerate(files.rows(path, self.columns)):
                id = f"{name}:{number}"
                try:
                    question = self.convert(row, partial(draw, id))
                except Dropped as reason:
                    yield reason
                else:
                    yield Example(id, question, question.table or (name, number))

    def pictures(
        self, files_: Files, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, Raw | Dropped]]:
        """Each example with its picture, in any order."""
        if self.picture is None:
            yield from ((example, example.picture) for example in examples)
            return
        by_file: dict[str, dict[int, Example]] = defaultdict(dict)
        for example in examples:
            name, number = example.picture
            by_file[name][number] = example
        for name, wanted in by_file.items():
            for number, cell in files.cells(files_[name], self.picture, list(wanted)):
                found = files.picture_bytes(cell)
                if len(found) == 1:
                    yield wanted[number], found[0]
                else:
                    yield wanted[number], Dropped("several pictures" if found else "no picture")


@dataclass(frozen=True)
class TatDqaReader:
    """TAT-DQA: a JSON file of questions by document, and a zip of the documents as PDF."""

    def examples(self, files_: Files, draw: Draw) -> Iterator[Example | Dropped]:
        """All questions of the JSON files, and why the others are none."""
        for path in files_.values():
            if path.suffix != ".json":
                continue
            for entry in files.read_json(path):
                try:
                    document = entry["doc"]["uid"]
                    yield from (self._example(document, asked) for asked in entry["questions"])
                except KeyError as error:
                    raise DataError(
                        f"{path}: an entry has no {error}; it should have doc.uid and questions "
                        "with uid, question, answer, answer_type and scale."
                    ) from None

    def _example(self, document: str, asked: dict[str, Any]) -> Example | Dropped:
        try:
            return Example(asked["uid"], converters.tat_dqa(asked), document)
        except Dropped as reason:
            return reason

    def pictures(
        self, files_: Files, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, Raw | Dropped]]:
        """Each example with its document's page; documents of several pages are left out."""
        try:
            import pypdfium2
        except ImportError:
            raise DataError("TAT-DQA's documents are PDFs: pip install pypdfium2") from None
        by_document: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            by_document[example.picture].append(example)
        for path in (path for path in files_.values() if path.suffix == ".zip"):
            with zipfile.ZipFile(path) as archive:
                names = {Path(name).stem: name for name in archive.namelist()}
                for document in sorted(by_document.keys() & names):
                    data = archive.read(names[document])
                    raw = _page(pypdfium2, data)
                    yield from ((example, raw) for example in by_document.pop(document))
        for left in by_document.values():
            yield from ((example, Dropped("document missing from the archive")) for example in left)


@dataclass(frozen=True)
class ChartGalaxyReader:
    """ChartGalaxy's synthetic charts: tars of ``N.png``, ``N.data.json`` and ``N.info.json``."""

    def examples(self, files_: Files, draw: Draw) -> Iterator[Example | Dropped]:
        """One question for each chart that has a table, and why the others have none."""
        for name, path in files_.items():
            with tarfile.open(path) as archive:
                members = archive.getmembers()
                pictures = {member.name for member in members if member.name.endswith(".png")}
                for member in members:
                    stem = member.name.removesuffix(".data.json")
                    if stem == member.name or f"{stem}.png" not in pictures:
                        continue
                    id = f"{name}:{stem.removeprefix('./')}"
                    try:
                        data = json.loads(archive.extractfile(member).read())
                        text, answer, task = charts.ask(data, partial(draw, id))
                    except ValueError:
                        yield Dropped("chart whose table is no JSON")
                    except Dropped as reason:
                        yield reason
                    else:
                        yield Example(id, Question(text, answer, task), (name, f"{stem}.png"))

    def pictures(
        self, files_: Files, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, Raw | Dropped]]:
        """Each example with its picture, in the order of the archives."""
        wanted = {example.picture: example for example in examples}
        for name in sorted({name for name, _ in wanted}):
            with tarfile.open(files_[name]) as archive:
                for member in archive:
                    example = wanted.get((name, member.name))
                    if example is not None:
                        yield example, archive.extractfile(member).read()


Reader = ParquetReader | TatDqaReader | ChartGalaxyReader


def decoded(raw: Raw) -> bytes | Image.Image:
    """The picture of a table; any other as it is. Raises Dropped where a table can't be drawn."""
    return draw(raw) if isinstance(raw, Table) else raw


def _page(pypdfium2: Any, data: bytes) -> Raw | Dropped:
    try:
        document = pypdfium2.PdfDocument(io.BytesIO(data))
    except pypdfium2.PdfiumError:
        return Dropped("document that can't be opened")
    try:
        if len(document) != 1:
            return Dropped("document of several pages")
        width, height = document[0].get_size()
        scale = (MAX_PIXELS / (width * height)) ** 0.5
        return document[0].render(scale=scale).to_pil().convert("RGB")
    finally:
        document.close()
