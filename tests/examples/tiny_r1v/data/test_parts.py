"""What is drawn from a source, and that every question is kept or counted."""

from collections import Counter

import pyarrow as pa
import pytest
from rich.console import Console

from examples.tiny_r1v.data import converters, parts
from examples.tiny_r1v.data.dedup import EvaluationIndex
from examples.tiny_r1v.data.fetch import Fetched, Repository, fetch
from examples.tiny_r1v.data.progress import Progress
from examples.tiny_r1v.data.readers import ParquetReader
from examples.tiny_r1v.data.shuffle import read_rows
from examples.tiny_r1v.data.sources import SOURCES, Source

ALL = 10**6

EVERY_SOURCE = [source for sources in SOURCES.values() for source in sources]


def drawn(folder, source, fetched, wanted=ALL, seen=(), pictures=(), seed=0):
    """The summary of a part, and its rows."""
    task = parts.Task(
        "math", source, fetched, wanted, seed, EvaluationIndex(), frozenset(seen),
        frozenset(pictures),
    )  # fmt: skip
    path = folder / f"{source.name}.parquet"
    summary = parts.make_part(path, task, [], 2, Progress(Console(quiet=True)))
    return summary, list(read_rows([path]))


@pytest.fixture
def rows_of(make, tmp_path):
    """A source of questions about pictures, given as pairs of question and encoded picture."""

    def source(*asked, per_picture=1):
        path = tmp_path / "a.parquet"
        rows = [{"q": q, "a": str(n), "image": {"bytes": p}} for n, (q, p) in enumerate(asked)]
        make.parquet(path, rows, q=pa.string(), a=pa.string(), image=make.IMAGE)
        reader = ParquetReader(
            lambda row: converters.mathematics(row, "q", "a"), ("q", "a"), "image"
        )
        made = Source("made", Repository("a/b", ("*",)), reader, 1, "", per_picture)
        return made, Fetched(None, {"a.parquet": path})

    return source


REASONS = {
    "geometry3k": {"no problem", "picture that can't be decoded", "repeated", "several pictures"},
    "mmr1": {"no answer", "picture with a side under 28 pixels"},
    "mmk12": {"no picture"},
    "tat_dqa": {
        "several answers",
        "no answer",
        "repeated",
        "document of several pages",
        "document that can't be opened",
        "document missing from the archive",
    },
    "wtq": {
        "several answers",
        "no answer",
        "no question",
        "repeated",
        "table without cells",
        "table with characters that the font lacks",
        "table with rows of different lengths",
    },
    "tqa": {"no question", "no user", "answer that is no letter", parts.ANOTHER},
    "tabfact": {
        "no statement",
        "no table_text",
        "label that is neither 0 nor 1",
        "table with rows of different lengths",
        "table without cells",
        parts.ANOTHER,
    },
    "chartgalaxy": {
        "chart without a table",
        "chart without a picture",
        "chart whose table is no JSON",
        "chart whose table has not the fields of a chart",
        parts.ANOTHER,
    },
    "plotqa": {"question without a question mark", "no assistant", parts.ANOTHER},
    "iam_line": {"no text", "picture longer than 200 times its width"},
    "ocr_vqa": {
        "questions and answers of different numbers",
        "no question",
        "answer that is not written in the picture",
        parts.ANOTHER,
    },
    "docvqa": {"no answer", parts.ANOTHER},
    "textvqa": {
        "answer that people do not agree on",
        "no question",
        "picture that can't be decoded",
        parts.ANOTHER,
    },
}
"""What is left out of each source's copy, among other things."""


@pytest.mark.parametrize("source", EVERY_SOURCE, ids=lambda source: source.name)
def test_every_question_that_is_read_is_kept_or_counted_by_a_reason(source, hub_copies, tmp_path):
    if source.name == "tat_dqa":
        pytest.importorskip("pypdfium2")
    summary, rows = drawn(tmp_path, source, fetch(source.repository, 0, hub_copies))
    assert len(rows) == summary["kept"] > 0
    assert summary["read"] == summary["kept"] + sum(summary["dropped"].values())
    ids = [row["extra_info"]["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    shown = Counter(row["images"][0]["bytes"] for row in rows)
    assert max(shown.values()) <= source.per_picture
    assert set(summary["dropped"]) >= REASONS[source.name]


def test_several_questions_about_a_diagram_become_rows(hub_copies, tmp_path):
    (tqa,) = [source for source in SOURCES["structure"] if source.name == "tqa"]
    _, rows = drawn(tmp_path, tqa, fetch(tqa.repository, 0, hub_copies))
    shown = Counter(row["images"][0]["bytes"] for row in rows)
    assert sorted(shown.values()) == [3] * 11 + [4]  # the first diagram has six questions


@pytest.mark.parametrize("allowed", [1, 2])
def test_a_picture_is_known_by_its_content_in_whatever_row_and_file_it_lies(
    make, rows_of, tmp_path, allowed
):
    same = [make.picture("same", compress_level=level) for level in (0, 1, 9)]
    same.append(make.picture("same", format="WEBP", lossless=True))
    assert len(set(same)) == 4
    asked = [(f"Find side {n}.", picture) for n, picture in enumerate(same)]
    source, fetched = rows_of(*asked, ("Find x.", make.picture("y")), per_picture=allowed)
    summary, _ = drawn(tmp_path, source, fetched)
    assert summary["kept"] == allowed + 1
    assert summary["dropped"] == {parts.ANOTHER: 4 - allowed}


def test_a_part_is_made_again_after_a_change_of_what_is_allowed(make, rows_of, tmp_path):
    same = make.picture("same")
    asked = [("Find x.", same), ("Find y.", same)]
    kept = [
        drawn(tmp_path, *rows_of(*asked, per_picture=allowed))[0]["kept"] for allowed in (1, 2, 1)
    ]
    assert kept == [1, 2, 1]


def test_a_picture_of_an_earlier_source_is_not_asked_about_again(make, rows_of, tmp_path):
    source, fetched = rows_of(("Find x.", make.picture("a")), ("Find y.", make.picture("b")))
    summary, _ = drawn(tmp_path, source, fetched)
    ((_, _, first), _) = summary["rows"]
    again, _ = drawn(tmp_path, source, fetched, pictures=[first])
    assert again["dropped"] == {"picture of an earlier source": 1}
    assert again["kept"] == 1


def test_a_question_that_is_left_out_does_not_take_anothers_place(make, tmp_path):
    """Of a row with a usable and an unusable question the usable one is drawn, for every seed."""
    path = tmp_path / "a.parquet"
    turns = pa.list_(pa.struct([("user", pa.string()), ("assistant", pa.string())]))
    texts = [
        {"user": "What is shown?", "assistant": "x" * (parts.MAX_ANSWER + 1)},
        {"user": "How many?", "assistant": "7"},
    ]
    make.parquet(
        path,
        [{"images": [make.image("a")], "texts": texts}],
        images=pa.list_(make.IMAGE),
        texts=turns,
    )
    (plotqa,) = [source for source in SOURCES["structure"] if source.name == "plotqa"]
    for seed in range(6):
        _, rows = drawn(tmp_path, plotqa, Fetched(None, {"a.parquet": path}), seed=seed)
        assert [row["answer"] for row in rows] == ["7"]
