"""TSV-Merge against the paper's steps in NumPy."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, seeds

from amm.methods.linear import LinearSettings
from amm.methods.tsv import orthonormal, tsv

independent = st.sampled_from([(2, 3, 11), (3, 9, 12), (2, 12, 6), (3, 7, 7)])


def reference(vectors):
    """arXiv 2412.00081 where the concatenated singular vectors are independent."""
    rank = max(1, min(vectors.shape[1:]) // len(vectors))
    parts = [np.linalg.svd(vector, full_matrices=False) for vector in vectors.numpy()]
    u = np.concatenate([u[:, :rank] for u, _, _ in parts], axis=1)
    s = np.concatenate([s[:rank] for _, s, _ in parts])
    v = np.concatenate([vh[:rank] for _, _, vh in parts], axis=0).T

    def whitened(x):
        values, vectors = np.linalg.eigh(x.T @ x)
        return x @ (vectors / np.sqrt(values)) @ vectors.T

    return torch.from_numpy(whitened(u) * s @ whitened(v).T)


@given(independent, seeds)
def test_is_the_papers_procedure(shape, seed):
    vectors = draw(shape, seed)
    close(tsv(vectors, LinearSettings()), reference(vectors), 1e-5)


@given(seeds)
def test_orthonormal_is_the_nearest(seed):
    x = draw((9, 4), seed)
    nearest = orthonormal(x)
    close(nearest.T @ nearest, torch.eye(4, dtype=x.dtype))
    other, _ = torch.linalg.qr(x + 0.1 * draw((9, 4), seed + 1))
    assert (x - nearest).norm() <= (x - other).norm()


def test_one_expert_gives_that_expert():
    vectors = draw((1, 6, 9), 0)
    close(tsv(vectors, LinearSettings()), vectors[0], 1e-12)


def test_orthogonal_experts_of_low_rank_give_the_sum():
    left, _ = torch.linalg.qr(draw((8, 8), 0))
    right, _ = torch.linalg.qr(draw((12, 12), 1))
    vectors = torch.stack([left[:, 2 * i : 2 * i + 2] @ right[2 * i : 2 * i + 2] for i in range(3)])
    close(tsv(vectors, LinearSettings()), vectors.sum(0))


def test_equal_experts_give_that_experts_low_rank_part():
    expert = draw((6, 8), 0)
    u, s, vh = torch.linalg.svd(expert, full_matrices=False)
    low = u[:, :3] * s[:3] @ vh[:3]
    close(tsv(torch.stack([expert, expert]), LinearSettings()), low)


def test_rank_one_experts_bring_no_arbitrary_directions():
    """A LoRA's SVD has arbitrary vectors where its singular values are 0."""
    vectors = torch.stack([draw((8, 1), i) @ draw((1, 8), i + 9) for i in range(2)])
    assert torch.linalg.matrix_rank(tsv(vectors, LinearSettings())) == 2


def test_scale_multiplies_the_task_vector():
    vectors = draw((2, 4, 6), 0)
    close(tsv(vectors, LinearSettings(scale=0.5)), 0.5 * tsv(vectors, LinearSettings()))
