"""Features of which it is known how well they separate the classes."""

from __future__ import annotations

import numpy as np


def blobs(labels: np.ndarray, *, d: int, apart: float, seed: int = 0) -> np.ndarray:
    """``[n, d]``: unit Gaussians round class centres that lie ``apart`` standard deviations out."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, apart, (labels.max() + 1, d))
    return centres[labels] + random.normal(0, 1, (len(labels), d))
