"""DARE: drops that depend on nothing but names and numbers, and are as frequent as set."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, in_blocks, seeds

from amm.methods.dare import DareSettings, dare, kept, stream_key
from amm.methods.registry import Place

WORD = 2**64


def splitmix(key, index):
    """SplitMix64 in Python's integers: the index-th number of the stream that starts at key."""
    x = (key + (index + 1) * 0x9E3779B97F4A7C15) % WORD
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def reference(vectors, settings, name):
    """Entry by entry, in plain Python."""
    merged = []
    for j in range(vectors[0].numel()):
        column = []
        for i, vector in enumerate(vectors):
            digest = hashlib.sha256(f"{settings.seed}\n{i}\n{name}".encode()).digest()
            number = splitmix(int.from_bytes(digest[:8], "little"), j)
            value = float(vector.flatten()[j])
            keep = number >= int(settings.drop * 2**64)
            column.append(value / (1 - settings.drop) if keep else 0.0)
        if settings.then == "ties":
            column = [value for value in column if value * sum(column) > 0]
            column = [sum(column) / len(column)] if column else []
        merged.append(settings.scale * sum(column))
    return torch.tensor(merged, dtype=vectors.dtype).view(vectors.shape[1:])


def test_splitmix_is_the_published_generator():
    """The first numbers for the seed 1234567, from the reference implementation in C."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix(1234567, i) for i in range(3)] == expected


@given(
    seeds,
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    st.sampled_from(["sum", "ties"]),
    st.integers(1, 7),
)
def test_follows_the_definition_in_blocks_of_any_size(seed, drop, then, rows):
    vectors = draw((3, 7, 5), seed)
    settings = DareSettings(drop=drop, then=then, seed=seed, scale=0.5)
    merged = in_blocks("dare", vectors, settings, rows, "a.weight")
    close(merged, reference(vectors, settings, "a.weight"))
    assert torch.equal(merged, in_blocks("dare", vectors, settings, 7, "a.weight"))


def test_blocks_beyond_a_chunk_continue_the_same_stream():
    count, block = 2**19 + 77, 99_991
    parts = [kept(5, at, min(block, count - at), 0.3) for at in range(0, count, block)]
    assert np.array_equal(np.concatenate(parts), kept(5, 0, count, 0.3))


def test_no_drop_is_task_arithmetic():
    vectors = draw((3, 4, 5), 0)
    assert torch.equal(dare(vectors, DareSettings(drop=0), Place("w")), vectors.sum(0))


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9, 0.99])
def test_the_share_kept_is_as_set(drop):
    count = 2**20
    share = float(kept(stream_key(0, "w", 0), 0, count, drop).mean())
    assert share == pytest.approx(1 - drop, abs=5 * (drop * (1 - drop) / count) ** 0.5)


@pytest.mark.parametrize(
    "other",
    [
        lambda n: kept(stream_key(0, "w", 1), 0, n, 0.5),
        lambda n: kept(stream_key(1, "w", 0), 0, n, 0.5),
        lambda n: kept(stream_key(0, "v", 0), 0, n, 0.5),
        lambda n: kept(stream_key(0, "w", 0), 1, n, 0.5),
        lambda n: kept(stream_key(0, "w", 0), 2048, n, 0.5),
    ],
    ids=["expert", "seed", "tensor", "next entry", "next row"],
)
def test_drops_are_independent(other):
    count = 2**20
    ours = kept(stream_key(0, "w", 0), 0, count, 0.5)
    assert abs(float((ours == other(count)).mean()) - 0.5) < 5 * 0.5 / count**0.5


def test_the_expectation_is_the_sum():
    vectors = torch.ones(2, 1000, 1000)
    merged = dare(vectors, DareSettings(drop=0.9), Place("w"))
    assert float(merged.mean()) == pytest.approx(2.0, abs=0.03)
