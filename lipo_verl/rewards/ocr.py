"""Similarity of texts that were read from an image.

The paper's reward for OCR is Levenshtein similarity [V]. ANLS is the measure of the document and
scene-text benchmarks (arXiv 1905.13648).
"""

import unicodedata

from rapidfuzz.distance import Levenshtein

from lipo_verl.rewards import forms

ANLS_THRESHOLD = 0.5


def similarity(answer: str, truth: str) -> float:
    """1 - Levenshtein distance / length of the longer text, in [0, 1]. [V]

    Case counts. Levelled as for the other tasks (`lipo_verl.rewards.forms.level`), in
    composed Unicode (NFC) [ours]. Two empty texts: 1.
    """
    return Levenshtein.normalized_similarity(_level(answer), _level(truth))


def anls(answer: str, truth: str) -> float:
    """As `similarity` without regard to case, and 0 from half the letters wrong on."""
    value = similarity(answer.lower(), truth.lower())
    return value if 1 - value < ANLS_THRESHOLD else 0.0


def _level(text: str) -> str:
    return forms.level(unicodedata.normalize("NFC", text))
