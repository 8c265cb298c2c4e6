"""The hint that goes with a wrong name."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The one of the known names that is closest to a wrong one, or None."""
    return next(iter(difflib.get_close_matches(str(name), list(known), 1)), None)


def did_you_mean(name: object, known: Iterable[str], prefix: str = "") -> str:
    """` Did you mean X?` for the nearest of the known names, or nothing; prefix: before X."""
    close = nearest(name, known)
    return f" Did you mean {prefix}{close}?" if close is not None else ""
