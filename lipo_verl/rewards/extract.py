"""The final answer within a response. [ours]

What a model writes inside `<think>…</think>` is never its answer.
"""

import re
from collections.abc import Callable

_BRACES = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\.|([{}])", re.S)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s+([A-Z]\b|-?[0-9](?:[0-9.,/]*[0-9])?)")
_MARKER = re.compile(
    r"(?:\banswer(?:\s+is)?|答案(?:是|为)?)\s*(?:[*`]+\s*)?[:：]\s*[*`]*"
    r"|\banswer\s+is(?=\s+\S)|答案[是为]",
    re.I,
)
_CLOSING = re.compile(r"^####[ \t]*([^#\s][^#\n]*)\Z", re.M)
_EMPHASIS = re.compile(r"(\*\*|`{1,3})\s*(.*?)\s*\1", re.S)
_SENTENCE_END = re.compile(r"[.。!！](?:\s|$)|\n")
_PARAGRAPH_END = re.compile(r"\n\s*\n")


def boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{}` whose braces are balanced; in the inner one of nested ones.

    Escaped braces do not count. `\boxed 9` is a box of a number or a capital letter, where none
    has braces. One pass, however many boxes are left open.
    """
    open_braces: list[int | None] = []
    best: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):
        if token[1]:
            open_braces.append(token.end())
        elif token[2] == "{":
            open_braces.append(None)
        elif token[2] == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and (best is None or start > best[0]):
                best = start, token.start()
    if best is not None:
        return text[best[0] : best[1]].strip()
    bare = _BARE_BOX.findall(text)
    return bare[-1] if bare else None


def tagged(text: str) -> str | None:
    """What is in the last `<answer>…</answer>`."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return None if start < 0 else text[start + len("<answer>") : end].strip()


def marked(text: str) -> str | None:
    """What follows the last `Answer:` or `答案：` up to an empty line, or that of `answer is`
    up to the end of its sentence."""
    marks = list(_MARKER.finditer(text))
    if not marks:
        return None
    rest = text[marks[-1].end() :].strip()
    stated = marks[-1][0].lower().endswith(("is", "是", "为"))
    end = _SENTENCE_END if stated else _PARAGRAPH_END
    return end.split(rest, maxsplit=1)[0].strip("*` \n")


def closing(text: str) -> str | None:
    """What follows `####` in the last line, as in GSM8K's solutions."""
    found = _CLOSING.search(text.rstrip())
    return found and found[1].strip()


def anywhere(text: str) -> str | None:
    """The last box inside the last answer tags, if there are any; else the last box, what follows a
    closing `####`, or what follows the last marker."""
    inside = tagged(text)
    if inside is not None:
        found = boxed(inside)
        return inside if found is None else found
    return next(
        (found for find in (boxed, closing, marked) if (found := find(text)) is not None), None
    )


def whole(text: str) -> str:
    """All of it."""
    return text.strip()


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "auto": anywhere,
    "boxed": boxed,
    "tags": tagged,
    "marker": marked,
    "whole": whole,
}


def final_answer(response: str, how: str = "auto") -> str | None:
    """The answer that a response ends with, or None where there is none or an empty one.

    Args:
        how: a key of EXTRACTORS. Thinking that was never closed was cut off: no answer.
    """
    _, _, after = response.rpartition("</think>")
    if "<think>" in after:
        return None
    found = EXTRACTORS[how](after)
    emphasised = found and _EMPHASIS.fullmatch(found)
    return (emphasised[2] if emphasised else found) or None
