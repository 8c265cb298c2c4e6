"""Equivalence of mathematical answers, decided by math-verify.

It may run for ever or eat all memory (9^{9^{9}} is enough), so trainers call it through
:mod:`lipo_verl.rewards.pool` only. math-verify's own timeouts are off: they are signals, which do
not work in threads and do not interrupt C code.
"""

import logging
import re

from math_verify import parse, verify

from lipo_verl.rewards import exact
from lipo_verl.rewards.errors import TruthError

_WORDS = re.compile(r"(?=.*[^\W\d_]{3})(?:[^\W\d_]|[ '-])+")

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off


def equivalent(answer: str, truth: str) -> bool:
    """Whether two expressions, LaTeX or plain, have the same value.

    Words are compared as text: math-verify takes ``hello`` for a product of letters. [ours]

    Raises TruthError where the truth holds nothing to compare, and whatever math-verify raises.
    """
    if exact.score(answer, truth):
        return True
    if _WORDS.fullmatch(exact.normalise(truth)):
        return False
    wanted = _parse(truth)
    if not wanted:
        raise TruthError(f"math-verify finds no mathematics in the truth {truth!r}.")
    return verify(wanted, _parse(answer), timeout_seconds=None, raise_on_error=True)


def _parse(text: str) -> list:
    return parse(f"${exact.strip_latex(text)}$", parsing_timeout=None, raise_on_error=True)
