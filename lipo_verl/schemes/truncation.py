"""DLER's truncation (arXiv 2510.15110): what does not end within the budget is worth nothing [C].

    cut at the budget:  R'_i = min(R_i, 0)
    else:               R'_i = R_i

With rewards of 0 and 1 this is the paper's 0; a negative one stays [ours]. DLER itself is this with
`normalization: batch` and stock settings of the trainer: docs/schemes.md.
"""

import numpy as np
from numpy import ndarray

from lipo_verl.schemes.registry import Responses, Settings, register


@register("truncation", right_groups=False)
def truncation(responses: Responses, settings: Settings) -> ndarray:
    """(G, n) R'."""
    return np.where(responses.truncated, np.minimum(responses.rewards, 0), responses.rewards)
