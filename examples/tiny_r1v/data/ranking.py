"""Seeded choices that depend on what is chosen, not on the order in which it comes.

A row's rank is a hash of the seed and the row's own name. So the rows that are drawn stay the same
whatever the order of files and rows, and however many threads prepare them.
"""

from hashlib import blake2b


def rank(seed: int, *names: object) -> int:
    """A number below 2^64 that looks random and is the same for the same seed and names."""
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
