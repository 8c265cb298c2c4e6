"""What a merge raises, and the hint that goes with a wrong name."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


class InputError(ValueError):
    """The merge can't go on with what it was given: a file, a tensor, a key or a value.

    The message names it, says what is wrong, and says what to do.
    """


class UnfinishedError(OSError):
    """The merge stopped for a reason outside its inputs; run again, it resumes."""


class MergeInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; the message says how far the merge is and how to resume."""


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """Say which of the allowed names is close to a wrong one, then list them all.

    Args:
        name: what was given.
        allowed: the names that would have been right.

    Returns:
        One sentence or two, without a leading space.
    """
    allowed = sorted(allowed)
    close = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Allowed: {', '.join(allowed)}."


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 200, 200


def shown(value: object) -> str:
    """A value as a message can show it, however large it is."""
    return _REPR.repr(value)
