"""The truths of a sample, as texts to compare with. [ours]"""

from collections.abc import Iterable, Mapping
from typing import Any

from lipo_verl.rewards import extract
from lipo_verl.rewards.errors import TruthError

_MISSING = {"", "nan", "NaN", "NaT", "<NA>"}
"""How tables write a value that isn't there; a model that answers `nan` is not right."""


def texts(ground_truth: Any) -> list[str]:
    """Its truths: of a text or number that one, of a list, tuple, set or array each that isn't
    missing. Of a truth in answer tags, in a box or behind a closing `####`, what stands there.

    Raises:
        TruthError: nothing is left, or one is neither text nor number.
    """
    truths = list(ground_truth) if _is_several(ground_truth) else [ground_truth]
    for truth in truths:
        if _is_several(truth) or isinstance(truth, Mapping | bytes | bytearray):
            raise TruthError(
                f"The ground truth {ground_truth!r} holds {type(truth).__name__}; it must be a "
                "text, a number, or a list of them."
            )
    found = [_bare(str(truth)) for truth in truths if truth is not None]
    found = [truth for truth in found if truth not in _MISSING]
    if not found:
        raise TruthError(f"The ground truth {ground_truth!r} is empty: nothing to compare with.")
    return found


def _is_several(truth: Any) -> bool:
    single = isinstance(truth, str | Mapping | bytes | bytearray)
    return isinstance(truth, Iterable) and not single and getattr(truth, "ndim", 1) > 0


def _bare(truth: str) -> str:
    found = (extract.tagged(truth), extract.boxed(truth), extract.closing(truth), truth)
    return next(text for text in found if text is not None).strip()
