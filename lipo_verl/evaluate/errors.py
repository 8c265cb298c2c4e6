"""What can go wrong with an evaluation, and the words for it."""

import difflib
from collections.abc import Iterable


class EvaluationError(ValueError):
    """The evaluation cannot go on as asked; the message names what is wrong and what to do."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean X?`` for the nearest of the known names, or nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {close[0]}?" if close else ""
