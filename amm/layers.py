"""Which tensors are weights of linear layers, told from name and shape."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NOT_OPTIMISED = re.compile(r"(^|\.)([^.]*embed[^.]*|lm_head|wte|wpe|[^.]*norm[^.]*)(\.|$)")


def is_linear(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is the out × in weight of a linear layer.

    Embeddings and heads are 2-D too, but their Gram matrices are as wide as the vocabulary (the
    plain form needs 258 GiB for Qwen's embedding [D]), and WUDI leaves them out [V].

    Args:
        name: the tensor's key in the checkpoint.
        shape: its shape.
    """
    return len(shape) == 2 and name.endswith(".weight") and not _NOT_OPTIMISED.search(name)
