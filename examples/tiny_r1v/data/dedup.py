"""Which training rows repeat a question or a picture of the evaluation sets. [ours]"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

MIN_WORDS = 8
"""Shorter questions (`Find x.`) are everybody's: they tell nothing without the picture."""

SHINGLE = 5
QUESTION_OVERLAP = 0.8
"""Jaccard index of the sets of 5 successive words from which on two questions are the same."""

PICTURE_OVERLAP = 0.9
MIN_BITS = 16
"""Jaccard index of the set bits of two perceptual hashes from which on two pictures are the same;
a picture with fewer set bits is nearly empty and like no other."""

_OPTIONS = re.compile(r"\b(?:choices|options)\s*:|\n\s*\(?A[).:]\s", re.I)
_NOT_A_WORD = re.compile(r"[^\w]+|_+")


def normalise(question: str) -> str:
    """The question's words: no options, marks of pictures, case, or punctuation."""
    text = unicodedata.normalize("NFKC", question).replace("<image>", " ")
    stem = _OPTIONS.split(text, maxsplit=1)[0]
    words = _NOT_A_WORD.sub(" ", stem.casefold()).split()
    return " ".join(words or _NOT_A_WORD.sub(" ", text.casefold()).split())


class EvaluationIndex:
    """The questions and pictures of the evaluation sets, to look training rows up in."""

    def __init__(self) -> None:
        self._questions: dict[str, str] = {}
        self._long: list[tuple[str, int]] = []
        self._shingles: dict[int, list[int]] = defaultdict(list)
        self._names: list[str] = []
        self._bits = np.zeros((0, 8), np.uint64)

    def add(self, name: str, questions: Iterable[str], pictures: Iterable[bytes]) -> None:
        """Adds a set: its questions as :func:`normalise` gives them, its perceptual hashes."""
        for question in questions:
            if len(question.split()) < MIN_WORDS or question in self._questions:
                continue
            self._questions[question] = name
            shingles = _shingles(question)
            for shingle in shingles:
                self._shingles[shingle].append(len(self._long))
            self._long.append((name, len(shingles)))
        informative = [bits for bits in pictures if _count(bits) >= MIN_BITS]
        self._names += [name] * len(informative)
        new = np.frombuffer(b"".join(informative), np.uint64).reshape(-1, 8)
        self._bits = np.concatenate([self._bits, new])

    def question(self, question: str) -> str | None:
        """The set that has this question, or nearly this one; None: no set has it."""
        words = normalise(question)
        if words in self._questions:
            return self._questions[words]
        if len(words.split()) < MIN_WORDS:
            return None
        shingles = _shingles(words)
        shared = Counter(at for shingle in shingles for at in self._shingles.get(shingle, ()))
        for at, both in shared.most_common():
            name, count = self._long[at]
            if both >= QUESTION_OVERLAP * (count + len(shingles) - both):
                return name
        return None

    def picture(self, bits: bytes) -> str | None:
        """The set that has this picture, also scaled or compressed; None: no set has it."""
        if not self._names or _count(bits) < MIN_BITS:
            return None
        wanted = np.frombuffer(bits, np.uint64)
        both = np.bitwise_count(self._bits & wanted).sum(axis=1, dtype=np.int32)
        either = np.bitwise_count(self._bits | wanted).sum(axis=1, dtype=np.int32)
        best = int(np.argmax(both / either))
        return self._names[best] if both[best] >= PICTURE_OVERLAP * either[best] else None


def _count(bits: bytes) -> int:
    return int.from_bytes(bits, "big").bit_count()


def _shingles(words: str) -> set[int]:
    split = words.split()
    runs = (" ".join(split[i : i + SHINGLE]) for i in range(len(split) - SHINGLE + 1))
    return {int.from_bytes(blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs}
