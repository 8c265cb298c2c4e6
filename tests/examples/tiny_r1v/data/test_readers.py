"""What readers take from files: exactly their kind, in any order, and nothing dropped silently."""

import io
import json
import tarfile
import zipfile
from itertools import permutations

import pyarrow as pa
import pytest

from examples.tiny_r1v.data import charts, converters
from examples.tiny_r1v.data.errors import DataError, Dropped
from examples.tiny_r1v.data.readers import ChartGalaxyReader, ParquetReader, TatDqaReader


def draw(id, purpose, n):
    return 0


def asked(reader, files):
    """The questions of all rows; the reasons of those that are none as text."""
    found = [each for row in reader.examples(files, draw) for each in row]
    return [str(each) if isinstance(each, Dropped) else each for each in found]


def pictures(reader, files, examples):
    return {example.id: picture for example, picture in reader.pictures(files, examples)}


def tat_dqa(folder, members, archives=1):
    """A copy with a question for each of the documents a and b."""
    entries = [
        {
            "doc": {"uid": document, "page": 1, "source": "report.pdf"},
            "questions": [
                {"uid": "q", "question": "?", "answer": 1, "answer_type": "count", "scale": ""}
            ],
        }
        for document in "ab"
    ]
    (folder / "questions.json").write_text(json.dumps(entries))
    files = {"questions.json": folder / "questions.json"}
    for number in range(archives):
        name = f"{number}.zip"
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, data in members[number::archives]:
                archive.writestr(member, data)
        files[name] = folder / name
    return files


KINDS = (".pdf", ".json", "_1.png")


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("archives", [1, 2])
def test_the_pdf_of_a_document_is_read_wherever_it_lies(make, tmp_path, order, archives):
    pytest.importorskip("pypdfium2")
    content = (make.pdf("a"), b'{"pages": []}', make.picture("a"))
    members = [(f"train/{name}{KINDS[i]}", content[i]) for name in "ab" for i in order]
    members.append(("__MACOSX/train/._a.pdf", b"what macOS adds"))
    files, reader = tat_dqa(tmp_path, members, archives), TatDqaReader()
    pages = pictures(reader, files, asked(reader, files))
    assert [page.size[1] > page.size[0] for page in pages.values()] == [True, True]
    assert set(pages) == {"a:q", "b:q"}


def test_a_pdf_that_is_there_twice_is_read_once_and_two_that_differ_are_an_error(make, tmp_path):
    pytest.importorskip("pypdfium2")
    reader, page = TatDqaReader(), make.pdf("a")
    files = tat_dqa(tmp_path, [("x/a.pdf", page), ("y/a.pdf", page), ("y/b.pdf", page)])
    assert len(pictures(reader, files, asked(reader, files))) == 2
    files = tat_dqa(tmp_path, [("x/a.pdf", page), ("y/a.PDF", make.pdf("other"))], archives=2)
    with pytest.raises(DataError, match=r"document a differ: x/a.pdf in .*0.zip and y/a.PDF in"):
        pictures(reader, files, asked(reader, files))


def test_documents_without_a_page_to_show_are_told_apart(make, tmp_path):
    pytest.importorskip("pypdfium2")
    reader = TatDqaReader()
    files = tat_dqa(tmp_path, [("a.pdf", make.pdf("a", pages=2)), ("b.pdf", b"%PDF-1.4")])
    reasons = pictures(reader, files, asked(reader, files))
    assert str(reasons["a:q"]) == "document of several pages"
    assert str(reasons["b:q"]) == "document that can't be opened"
    files = tat_dqa(tmp_path, [("b.pdf", make.pdf("b"))])
    reasons = pictures(reader, files, asked(reader, files))
    assert str(reasons["a:q"]) == "document missing from the archive"


def test_a_damaged_document_is_left_out_and_not_the_others(make, tmp_path):
    pytest.importorskip("pypdfium2")
    reader, page = TatDqaReader(), make.pdf("a")
    files = tat_dqa(tmp_path, [("a.pdf", page), ("b.pdf", make.pdf("b"))])
    content = files["0.zip"].read_bytes()
    files["0.zip"].write_bytes(content.replace(page, page[:-9] + b"X" * 9))
    found = pictures(reader, files, asked(reader, files))
    assert str(found["a:q"]) == "document that can't be opened"
    assert found["b:q"].size[1] > 100


def test_an_archive_without_pdfs_says_what_is_there(make, tmp_path):
    pytest.importorskip("pypdfium2")
    reader = TatDqaReader()
    files = tat_dqa(tmp_path, [("a.json", b"{}"), ("a_1.png", b""), ("b_1.png", b"")])
    with pytest.raises(DataError, match=r"0.zip: no PDF of a document. There is: 2 .png, 1 .json"):
        pictures(reader, files, asked(reader, files))
    files["0.zip"].write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"0.zip is no whole zip .* delete it"):
        pictures(reader, files, asked(reader, files))


def test_an_entry_without_a_field_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(
        json.dumps([{"doc": {"uid": "a"}, "questions": [{"uid": "q", "question": "?"}]}])
    )
    with pytest.raises(DataError, match=r"questions.json: an entry .*'answer_type'"):
        asked(TatDqaReader(), {"questions.json": path})


TURNS = pa.list_(pa.struct([("user", pa.string()), ("assistant", pa.string())]))


def test_all_questions_of_a_row_are_asked_about_its_picture(make, tmp_path):
    def turn(n, answer="Answer: A"):
        return {"user": f"Question: which {n}?\nA. x\nB. y", "assistant": answer}

    path = tmp_path / "a.parquet"
    rows = [
        {"images": [make.image("0")], "texts": [turn(0), turn(1), turn(2, "seven")]},
        {"images": [make.image("1")], "texts": []},
        {"images": [make.image("2")], "texts": [turn(3)]},
    ]
    make.parquet(path, rows, images=pa.list_(make.IMAGE), texts=TURNS)
    reader = ParquetReader(converters.tqa, ("texts",), "images", split=converters.turns)
    files = {"a.parquet": path}
    first, second, odd, none, last = asked(reader, files)
    assert (odd, none) == ("answer that is no letter", "no question")
    assert [each.id for each in (first, second, last)] == [
        "a.parquet:0:0",
        "a.parquet:0:1",
        "a.parquet:2:0",
    ]
    assert first.picture == second.picture != last.picture
    assert pictures(reader, files, [first, second, last]) == {
        first.id: make.picture("0"),
        second.id: make.picture("0"),
        last.id: make.picture("2"),
    }


def test_cells_without_one_picture_are_told_apart(make, tmp_path):
    path = tmp_path / "a.parquet"
    cells = ([], [make.image("a"), make.image("b")], [{"bytes": None, "path": "a.png"}], None)
    rows = [{"images": cell, "question": "?", "answer": "1"} for cell in cells]
    columns = {"images": pa.list_(make.IMAGE), "question": pa.string(), "answer": pa.string()}
    make.parquet(path, rows, **columns)
    reader = ParquetReader(converters.mmk12, ("question", "answer"), "images")
    files = {"a.parquet": path}
    reasons = pictures(reader, files, asked(reader, files)).values()
    assert list(map(str, reasons)) == [
        "no picture",
        "several pictures",
        "no picture",
        "no picture",
    ]


def test_a_source_of_text_alone_is_an_error_that_says_so(make, tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"question": "1 + 1?", "answer": "2"}]
    make.parquet(path, rows, question=pa.string(), answer=pa.string())
    reader = ParquetReader(converters.mmk12, ("question", "answer"))
    with pytest.raises(DataError, match="a.parquet:0 has neither a picture nor a table. Text-only"):
        asked(reader, {"a.parquet": path})


def tar(path, make, *members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            make.add_member(archive, name, data)
    return {path.name: path}


def test_a_chart_is_asked_about_in_all_ways_whatever_the_order_of_its_files(make, tmp_path):
    table = json.dumps(make.chart_table(0)).encode()
    for order in permutations(
        [("./7.png", make.picture("7")), ("./7.data.json", table), ("./7.info.json", b"{}")]
    ):
        files, reader = tar(tmp_path / "a.tar", make, *order), ChartGalaxyReader()
        examples = asked(reader, files)
        assert [example.id for example in examples] == [f"a.tar:7:{kind}" for kind in charts.KINDS]
        assert set(pictures(reader, files, examples).values()) == {make.picture("7")}


def test_half_charts_are_counted_and_files_that_are_there_twice_an_error(make, tmp_path):
    picture, table = make.picture("7"), json.dumps(make.chart_table(0)).encode()
    files = tar(tmp_path / "a.tar", make, ("1.png", picture), ("2.data.json", table))
    assert sorted(asked(ChartGalaxyReader(), files)) == [
        "chart without a picture",
        "chart without a table",
    ]
    files = tar(tmp_path / "a.tar", make, ("1.png", picture), ("1.png", picture))
    with pytest.raises(DataError, match=r"a.tar has 1.png twice"):
        asked(ChartGalaxyReader(), files)


def test_a_tar_cut_off_is_an_error_that_says_to_delete_it(make, tmp_path):
    files = tar(
        tmp_path / "a.tar", make, ("1.png", make.picture("7")), ("1.data.json", b"{}" * 999)
    )
    path = tmp_path / "a.tar"
    whole = path.read_bytes()
    header = whole.index(b"1.data.json")
    for end in (header - 100, header + 100, header + 600):  # in data, in a header, in data
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match="a.tar is no whole tar .* delete it"):
            asked(ChartGalaxyReader(), files)


def test_a_page_is_drawn_as_large_as_a_picture_may_be(make, tmp_path):
    pytest.importorskip("pypdfium2")
    reader = TatDqaReader()
    files = tat_dqa(tmp_path, [("a.pdf", make.pdf("a")), ("b.pdf", make.pdf("b"))])
    page = pictures(reader, files, asked(reader, files))["a:q"]
    encoded = io.BytesIO()
    page.save(encoded, "PNG")
    assert page.mode == "RGB"
    assert page.width * page.height == pytest.approx(1280 * 28**2, rel=0.01)
