"""Text of strangers' files, made safe for the terminal and for the model card."""

import os

import pytest

from amm.text import markdown, markdown_code, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.layers.0 ‖τ‖ é 日", "model.layers.0 ‖τ‖ é 日"),
        ("\x1b[2J\x9b31m\r\x07", "\\x1b[2J\\x9b31m\\r\\x07"),
        ("a\nMerged model: b", "a\\nMerged model: b"),
        ("\u202egpj.exe\u2028", "\\u202egpj.exe\\u2028"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown
    assert printable_lines(f"one\n{text}").startswith("one\n    ")
    assert printable_lines(f"one\n{text}").count("\x1b") == 0


@pytest.mark.parametrize(
    "text", ["<img src=x>", "`", "a|b", "[click](https://example.org)", "**x**", "![x](y)", "&lt;"]
)
def test_marks_of_markdown_and_html_are_escaped(text):
    left = markdown(text)
    for mark in "`*<>&[]|!":
        assert left.count(mark) == left.count(f"\\{mark}") == text.count(mark)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a_b", "`a_b`"), ("a`b", "`` a`b ``"), ("```", "```` ``` ````"), ("a|b\n", "`a\\|b\\n`")],
)
def test_code_ends_where_its_text_does(text, shown):
    assert markdown_code(text) == shown
