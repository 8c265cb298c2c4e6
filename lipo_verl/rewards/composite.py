"""Accuracy and format in one score."""

FORMAT_WEIGHT = 0.1
"""The weights of the same first authors' earlier R1-ShareVL are 0.9 accuracy + 0.1 format. [V]"""


def combine(accuracy: float, format: float, format_weight: float) -> float:
    """(1 - w) * accuracy + w * format: of two values in [0, 1], again one in [0, 1]."""
    return (1 - format_weight) * accuracy + format_weight * format
