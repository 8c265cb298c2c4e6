"""Levenshtein similarity and ANLS, against the textbook recursion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.rewards import ocr

texts = st.text("abcAB é1", max_size=12)


def distance(a, b):
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def level(text):
    return " ".join(text.split())


@given(texts, texts)
def test_similarity_is_one_minus_the_normalised_distance(a, b):
    a_, b_ = level(a), level(b)
    expected = 1 - distance(a_, b_) / max(len(a_), len(b_), 1)
    assert ocr.similarity(a, b) == pytest.approx(expected, abs=1e-12)


@given(st.text(max_size=30), st.text(max_size=30))
def test_similarity_is_symmetric_within_bounds_and_1_for_equal_texts_only(a, b):
    similarity = ocr.similarity(a, b)
    assert 0 <= similarity <= 1
    assert similarity == ocr.similarity(b, a)
    assert ocr.similarity(a, a) == 1
    assert (similarity == 1) == (ocr.similarity(b, f" {a}\n") == 1)


@given(texts, texts)
def test_only_levelled_texts_have_similarity_1(a, b):
    assert (ocr.similarity(a, b) == 1) == (level(a) == level(b))


@given(texts, texts)
def test_anls_ignores_case_and_cuts_off_at_half(a, b):
    similarity = ocr.similarity(a.lower(), b.lower())
    assert ocr.anls(a, b) == (similarity if similarity > 0.5 else 0)


def test_case_counts_for_similarity_alone():
    assert ocr.similarity("ABCD", "ABCd") == 0.75
    assert ocr.anls("ABCD", "abcd") == 1.0
    assert ocr.anls("ab", "ax") == 0.0


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("\\text{Mind the gap}", "Mind the gap"),
        ("20\\% off", "20% off"),
        ("Fish \\& Chips, \\$7", "Fish & Chips, $7"),
        ("ＯＰＥＮ：９", "OPEN:9"),
        ("first\\\\second", "first\nsecond"),
    ],
)
def test_a_reading_in_a_box_is_latex(answer, truth):
    assert ocr.similarity(answer, truth) == ocr.anls(answer, truth) == 1.0


def test_composed_and_decomposed_letters_are_the_same():
    assert ocr.similarity("e\u0301", "\u00e9") == 1.0
