"""From a dataset's files to questions, and to the pictures that they are about.

Reading goes in two passes: first all questions, without their pictures; then the pictures of those
that were drawn. A reader takes the kinds of file that it names and no other, in whatever order they
lie in an archive. What it finds twice, and different, is an error; what it finds no use for is a
reason that the manifest counts.
"""

import io
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from PIL import Image

from examples.tiny_r1v.data import charts, converters, files
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


Asked = list[Example | Dropped]
"""The questions about one picture, and why others are none."""

Raw = bytes | Image.Image | Table
"""A picture before it is prepared: encoded, decoded, or a table to draw."""

Files = dict[str, Path]
Row = dict[str, Any]
Draw = Callable[..., int]
"""``draw(question's id, purpose, n)``: a seeded number below n."""


@dataclass(frozen=True)
class ParquetReader:
    """Parquet files with one picture, or one table, in a row.

    convert: a row's columns to the question; it raises Dropped for a row that is left out
    columns: those that ``convert`` gets
    picture: the column of the picture; None where ``convert`` gives a table
    split:   a row with several questions to what ``convert`` gets of each
    """

    convert: Callable[[Row], Question]
    columns: tuple[str, ...]
    picture: str | None = None
    split: Callable[[Row], Sequence[Row]] | None = None

    def examples(self, files_: Files, draw: Draw) -> Iterator[Asked]:
        """The questions of each row.

        Raises DataError for a question that has neither picture nor table.
        """
        for name, path in files_.items():
            needed = [*self.columns, *([self.picture] if self.picture else [])]
            files.open_parquet(path, needed)
            for number, row in enumerate(files.rows(path, self.columns)):
                yield list(self._asked(name, number, row))

    def _asked(self, name: str, number: int, row: Row) -> Iterator[Example | Dropped]:
        id = f"{name}:{number}"
        try:
            parts = {id: row}
            if self.split:
                parts = {f"{id}:{turn}": part for turn, part in enumerate(self.split(row))}
        except Dropped as reason:
            yield reason
            return
        if not parts:
            yield Dropped("no question")
        for id, part in parts.items():
            try:
                question = self.convert(part)
            except Dropped as reason:
                yield reason
                continue
            if self.picture is None and question.table is None:
                raise DataError(
                    f"{id} has neither a picture nor a table. Text-only questions can't be used "
                    "here: every row has one picture, as the evaluation has. Name the picture's "
                    "column in sources.py, or let the converter give a table to draw."
                )
            yield Example(id, question, question.table or (name, number))

    def pictures(
        self, files_: Files, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, Raw | Dropped]]:
        """Each example with its picture, in any order."""
        if self.picture is None:
            yield from ((example, example.picture) for example in examples)
            return
        by_file: dict[str, dict[int, list[Example]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            name, number = example.picture
            by_file[name][number].append(example)
        for name, wanted in by_file.items():
            for number, cell in files.cells(files_[name], self.picture, list(wanted)):
                found = files.picture_bytes(cell)
                raw = found[0] if found else Dropped("no picture")
                if len(found) > 1:
                    raw = Dropped("several pictures")
                yield from ((example, raw) for example in wanted[number])


@dataclass(frozen=True)
class TatDqaReader:
    """TAT-DQA: a JSON file of questions by document, and zips of the documents.

    Of each document there are ``<uid>.pdf``, ``<uid>.json`` (its words) and a picture a page
    (``<uid>_1.png``); the PDF is what is read.
    """

    def examples(self, files_: Files, draw: Draw) -> Iterator[Asked]:
        """The questions about each document of the JSON files."""
        for path in (path for path in files_.values() if path.suffix == ".json"):
            for entry in files.read_json(path):
                try:
                    document = entry["doc"]["uid"]
                    yield [self._example(document, asked) for asked in entry["questions"]]
                except (KeyError, TypeError) as error:
                    raise DataError(
                        f"{path}: an entry is not as expected ({type(error).__name__}: {error}); "
                        "it should have doc.uid and questions with uid, question, answer, "
                        "answer_type and scale."
                    ) from None

    def _example(self, document: str, asked: Row) -> Example | Dropped:
        try:
            return Example(f"{document}:{asked['uid']}", converters.tat_dqa(asked), document)
        except Dropped as reason:
            return reason

    def pictures(
        self, files_: Files, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, Raw | Dropped]]:
        """Each example with its document's page; documents of several pages are left out.

        Raises DataError where the archives have no PDF, or different ones of a document.
        """
        try:
            import pypdfium2
        except ImportError:
            raise DataError("TAT-DQA's documents are PDFs: pip install pypdfium2") from None
        by_document: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            by_document[example.picture].append(example)
        found = _documents([path for path in files_.values() if path.suffix == ".zip"])
        for path, members in found.items():
            with files.open_archive(path) as archive:
                for document in sorted(by_document.keys() & members.keys()):
                    raw = _page(pypdfium2, _read(archive, members[document]))
                    yield from ((example, raw) for example in by_document.pop(document))
        for left in by_document.values():
            yield from ((example, Dropped("document missing from the archive")) for example in left)


@dataclass(frozen=True)
class ChartGalaxyReader:
    """ChartGalaxy's synthetic charts: tars of ``N.png``, ``N.data.json`` and ``N.info.json``."""

    def examples(self, files_: Files, draw: Draw) -> Iterator[Asked]:
        """A question of each kind for each chart that has a table.

        Raises DataError for a tar that has a file twice.
        """
        for name, path in files_.items():
            with files.open_archive(path) as archive:
                members = files.tar_members(path, archive)
                twice = [member for member, n in Counter(m.name for m in members).items() if n > 1]
                if twice:
                    raise DataError(f"{path} has {twice[0]} twice. Delete it and run again.")
                tables = {m.name.removesuffix(".data.json"): m for m in members}
                tables = {stem: m for stem, m in tables.items() if stem != m.name}
                pictures = {m.name.removesuffix(".png") for m in members if m.name.endswith(".png")}
                yield [Dropped("chart without a table") for _ in pictures - tables.keys()]
                yield [Dropped("chart without a picture") for _ in tables.keys() - pictures]
                for stem, member in tables.items():
                    if stem in pictures:
                        content = archive.extractfile(member).read()
                        yield list(_about_chart(name, stem, content, draw))

    def pictures(
        self, files_: Files, examples: Sequence[Example]
    ) -> Iterator[tuple[Example, Raw | Dropped]]:
        """Each example with its picture, in the order of the archives."""
        wanted: dict[tuple[str, str], list[Example]] = defaultdict(list)
        for example in examples:
            wanted[example.picture].append(example)
        for name in sorted({name for name, _ in wanted}):
            with files.open_archive(files_[name]) as archive:
                for member in archive:
                    if asked := wanted.get((name, member.name)):
                        raw = archive.extractfile(member).read()
                        yield from ((example, raw) for example in asked)


Reader = ParquetReader | TatDqaReader | ChartGalaxyReader


def decoded(raw: Raw) -> bytes | Image.Image:
    """The picture of a table; any other as it is. Raises Dropped where a table can't be drawn."""
    return draw(raw) if isinstance(raw, Table) else raw


def _documents(archives: Sequence[Path]) -> dict[Path, dict[str, ZipInfo]]:
    """Each archive's documents, and which file is their PDF."""
    found: dict[str, tuple[Path, ZipInfo]] = {}
    kinds: Counter[str] = Counter()
    for path in archives:
        with files.open_archive(path) as archive:
            members = archive.infolist()
        for member in members:
            name = PurePosixPath(member.filename)
            kinds[name.suffix.lower()] += 1
            if name.suffix.lower() != ".pdf":
                continue
            there, other = found.setdefault(name.stem, (path, member))
            if (other.CRC, other.file_size) != (member.CRC, member.file_size):
                raise DataError(
                    f"Two PDFs of document {name.stem} differ: {other.filename} in {there} and "
                    f"{member.filename} in {path}. Delete the wrong one."
                )
    if not found:
        there = ", ".join(f"{n} {kind or 'without suffix'}" for kind, n in kinds.most_common(5))
        raise DataError(
            f"{', '.join(map(str, archives))}: no PDF of a document. There is: {there or 'nothing'}"
            ". Its layout has changed."
        )
    return {
        path: {stem: member for stem, (there, member) in found.items() if there == path}
        for path in archives
    }


def _read(archive: ZipFile, member: ZipInfo) -> bytes:
    """A file of an archive; empty where it is damaged or encrypted."""
    try:
        return archive.read(member)
    except (BadZipFile, zlib.error, RuntimeError, EOFError):
        return b""


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
    except (pypdfium2.PdfiumError, ZeroDivisionError):
        return Dropped("document that can't be drawn")
    finally:
        document.close()


def _about_chart(name: str, stem: str, content: bytes, draw: Draw) -> Iterator[Example | Dropped]:
    try:
        data = json.loads(content)
    except ValueError:
        yield Dropped("chart whose table is no JSON")
        return
    for kind in charts.KINDS:
        id = f"{name}:{stem.removeprefix('./')}:{kind}"
        try:
            question = Question(*charts.ask(data, kind, partial(draw, id)))
        except Dropped as reason:
            yield reason
        else:
            yield Example(id, question, (name, f"{stem}.png"))
