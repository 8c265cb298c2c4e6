"""Tokens and final answers in VLMEvalKit's prediction files."""

from pathlib import Path

import pandas as pd
import pytest

from amm import InputError
from examples.quickstart.run import BASE
from examples.tiny_r1v.eval.predictions import annotate, newest, read, tokenizer
from tests.examples.tiny_r1v.eval.kit import predictions

ANSWERS = [
    "<think>2 and 5 or 8</think> So it is \\boxed{7}.",
    "The answer is 7.",
    "<think>\\boxed{8} is what I thought",
    "",
    "Failed to obtain answer via API. ",
]


def words(texts):
    return [len(text.split()) for text in texts]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return predictions(tmp_path, "mine", "ChartQA_TEST", ANSWERS)


def test_the_final_answer_is_left_for_the_scorers_and_the_whole_is_kept(file):
    assert annotate(file, words) == 5
    rows = read(file)
    assert [row["prediction"] for row in rows] == ["7", *ANSWERS[1:]]
    assert [row["full_response"] for row in rows] == ANSWERS
    assert [row["response_tokens"] for row in rows] == ["9", "4", "5", "0", ""]


def test_vlmevalkit_reads_the_file_as_before(file):
    """It reads with pandas, which must see the same rows and columns, and two more."""
    before = pd.read_csv(file, sep="\t")
    annotate(file, words)
    after = pd.read_csv(file, sep="\t")
    assert list(after) == [*before, "full_response", "response_tokens"]
    pd.testing.assert_frame_equal(
        after[["index", "question", "answer"]], before[["index", "question", "answer"]]
    )


def test_an_annotated_file_is_left_alone(file):
    annotate(file, words)
    once = file.read_bytes()
    assert annotate(file, lambda texts: pytest.fail("counted again")) == 5
    assert file.read_bytes() == once


def test_the_newest_run_of_each_benchmark_counts_and_nothing_else(tmp_path):
    first, second = "T20260101-000000", "T20260102-000000"
    predictions(tmp_path, "mine", "MME", ["yes"], first)
    newer = predictions(tmp_path, "mine", "MME", ["no"], second)
    older = predictions(tmp_path, "mine", "MMStar", ["A"], first)
    predictions(tmp_path, "mine", "MMStar_gpt-4o-mini_result", ["A"], second)
    predictions(tmp_path, "mine", "AnotherBenchmark", ["A"], second)
    assert newest(tmp_path / "mine") == {"MME": newer, "MMStar": older}


def test_xlsx_files_get_a_hint(tmp_path):
    folder = tmp_path / "mine" / "T20260101-000000"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match=r"no prediction files T\*/mine_<dataset>.tsv.$"):
        newest(tmp_path / "mine")
    (folder / "mine_MME.xlsx").touch()
    with pytest.raises(InputError, match="set PRED_FORMAT=tsv"):
        newest(tmp_path / "mine")


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="x.tsv isn't a prediction file"):
        read(tmp_path / "x.tsv")


def test_tokens_are_the_models_own_without_special_ones():
    from transformers import AutoTokenizer

    texts = ["Answer: 26", "The perimeter is 26.", "", "A\nB"]
    reference = AutoTokenizer.from_pretrained(BASE)
    expected = [len(reference(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert tokenizer(str(BASE))(texts) == expected
    assert expected[2] == 0


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="has no tokenizer.json"):
        tokenizer(str(tmp_path))
