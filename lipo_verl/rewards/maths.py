r"""Equivalence of mathematical answers, decided by math-verify on what its grammar reads whole.

math-verify looks for mathematics in a text and settles for a part of it: `2` in `2√3`, `5` in
`5–6`. Here its grammar must read all of an answer or truth; what it doesn't is equivalent to
nothing. [ours]

It may run for ever or eat all memory (9^{9^{9}} is enough), so trainers call it through
`lipo_verl.rewards.pool` only. math-verify's own timeouts are off: they are signals, which do
not work in threads and do not interrupt C code.
"""

import logging
import re
from decimal import Decimal

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.logic import And
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy.core.relational import Relational

from lipo_verl.rewards import exact, notation
from lipo_verl.rewards.errors import TruthError

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off

_TEXT = re.compile(
    r"(?=.*(?:[^\W\d_]{3}|[\u2e80-\uffff]))(?:[^\W\d_]|[ ,.;'-])+"  # words
    r"|.*(?:\.\.\.|…|\\[lc]?dots).*"  # a series that goes on
    r"|[0-9]{1,2}(?::[0-9]{2})+ ?(?:[ap]\.?m\.?)?"  # a time
    r"|[0-9]+([-/])[0-9]+\1[0-9]+",  # a date
    re.S,
)
_RANGE = re.compile(r"[0-9][–—][0-9]")
_UNREADABLE = re.compile(
    r"(?<![_0-9.])[0-9.]+ +[0-9.]"  # 5 6, which the grammar adds
    r"|(?<![\\A-Za-z{])(?!(?:and|or)\b)[A-Za-z]{4,}"  # a word, which it multiplies
)
_INEQUALITY = re.compile(r"[<>]|\\[lg]eq?(?![a-z])|\\[lg]t(?![a-z])")
_SCIENTIFIC = re.compile(
    r"^([^\\^]+?) ?\\(?:times|cdot) ?10 ?\^ ?(?:\{ ?([+-]?[0-9]+) ?\}|([0-9]+))$"
)
_GRAMMAR = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")

SMALLEST, CLOSEST = 1e-6, 1e-5
"""How far a decimal may be from the value it stands for: absolutely, and relative to it."""


def equivalent(answer: str, truth: str) -> bool:
    """Whether two expressions, LaTeX or plain, have the same value.

    A unit may be missing on one side, but two units must agree; a percentage is its number and its
    hundredth. Decimals are compared exactly with each other, and to six places with anything else.
    Words, times, dates and ranges are compared as text: math-verify would calculate. [ours]

    Raises:
        TruthError: the truth is no mathematics as a whole; and what math-verify raises.
    """
    if exact.score(answer, truth):
        return True
    if _is_text(truth) or _is_text(answer):
        return False
    if ("=" in answer) != ("=" in truth):
        answer, truth = notation.unnamed(answer), notation.unnamed(truth)
    (given, given_unit), (wanted, wanted_unit) = map(notation.measured, (answer, truth))
    if given_unit and wanted_unit and given_unit != wanted_unit:
        return False
    if given.split() == wanted.split() != [] and given_unit == wanted_unit:
        return True
    real = not (should_treat_as_complex(given) or should_treat_as_complex(wanted))
    gold, found = _read(wanted, real), _read(given, real)
    if gold is None:
        raise TruthError(f"math-verify reads no mathematics in the whole of the truth {truth!r}.")
    if found is None:
        return False
    if _set_for_a_pair(given, gold) or _set_for_a_pair(wanted, found):
        return False
    gold, found = _values(gold, found), _values(found, gold)
    if not all(isinstance(each, Decimal | sympy.Expr) for each in (found, gold)):
        return _same(found, gold)
    return any(_same(a, b) for a, b in exact.readings(found, given_unit, gold, wanted_unit))


def _is_text(text: str) -> bool:
    return bool(_RANGE.search(text) or _TEXT.fullmatch(notation.latex(exact.normalise(text))))


def _read(latex: str, real: bool):
    """What the grammar makes of the whole of `latex`; a Decimal of a plain number; or None."""
    number = exact.quantity(_SCIENTIFIC.sub(r"\1e\2\3", latex))
    if number is not None and not number.unit:
        return number.value
    if _UNREADABLE.search(latex):
        return None
    try:
        if _INEQUALITY.search(latex) and len(parts := re.split(r"\bor\b", latex)) > 1:
            ranges = [_read(part, real) for part in parts]
            solved = all(map(_is_solved, ranges))
            return sympy.Union(*(each.as_set() for each in ranges)) if solved else None
        found = latex2sympy(
            normalize_latex(latex, _GRAMMAR),
            is_real=real,
            convert_degrees=False,
            normalization_config=None,
        )
        return found.subs([(each, sympy.I) for each in found.free_symbols if each.name == "i"])
    except Exception:  # the grammar's own are plain Exceptions, and sympy's are many
        return None


def _set_for_a_pair(latex: str, other) -> bool:
    r"""Whether `\{1,2\}` stands against `(1,2)`, which is the same for math-verify."""
    return latex.startswith(r"\{") and isinstance(other, sympy.Tuple | sympy.Interval)


def _values(found, other):
    """The values of `x = 2, x = 3` where the other side names no variable."""
    equations = isinstance(found, sympy.FiniteSet) and all(isinstance(e, sympy.Eq) for e in found)
    if not equations or isinstance(other, sympy.FiniteSet) and other.atoms(sympy.Eq):
        return found
    names = {str(each.lhs).partition("_")[0] for each in found}
    return sympy.FiniteSet(*(each.rhs for each in found)) if len(names) == 1 else found


def _same(found, gold) -> bool:
    if isinstance(found, Decimal) and isinstance(gold, Decimal):
        return found == gold
    found, gold = _number(found), _number(gold)
    if isinstance(found, sympy.FiniteSet) and isinstance(gold, sympy.FiniteSet):
        left = list(gold.args)
        for each in found.args:
            match = next((other for other in left if _same(each, other)), None)
            if match is None:
                return False
            left.remove(match)
        return not left
    if isinstance(found, sympy.Tuple) and isinstance(gold, sympy.Tuple):
        return len(found) == len(gold) and all(map(_same, found, gold))
    if isinstance(found, sympy.Eq) and found.lhs.is_number and found.rhs.is_number:
        if not _close(found.lhs, found.rhs):
            return False  # 5 = 6 is not 6
    values = found, gold
    if all(isinstance(each, sympy.Expr) and each.is_number and each.is_finite for each in values):
        return _close(found, gold)
    return verify(
        gold,
        found,
        allow_set_relation_comp=_is_solved(found),
        timeout_seconds=None,
        raise_on_error=True,
    )


def _number(value):
    if not isinstance(value, Decimal):
        return value
    whole = value == value.to_integral_value()
    return sympy.Integer(int(value)) if whole else sympy.Float(str(value), 40)


def _close(found: sympy.Expr, gold: sympy.Expr) -> bool:
    """Equality of two numbers that doesn't round small ones to zero."""
    found, gold = found.doit(), gold.doit()
    size, difference = abs(gold.evalf(50)), abs((found - gold).evalf(50))
    if found.has(sympy.Float) or gold.has(sympy.Float):
        return bool(difference < SMALLEST and difference <= CLOSEST * size)
    return bool(difference <= size * sympy.Float("1e-40")) or bool((found - gold).equals(0))


def _is_solved(relation) -> bool:
    """Whether it is an inequality of one variable and numbers, which states a set of values."""
    if not isinstance(relation, Relational | And):
        return False
    sides = [side for each in relation.atoms(Relational) for side in each.args]
    return all(side.is_Symbol or side.is_number for side in sides)
