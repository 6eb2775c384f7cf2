"""Squared distances, Gaussian kernels and their bandwidth, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tltf.errors import ArgumentError, DataError

Floats = NDArray[np.float64]

KERNELS = ("linear", "gaussian")


def squared_distances(a: Floats, b: Floats) -> Floats:
    """``|a_i - b_j|**2`` float64 ``[n, m]``; rounding below zero is clipped."""
    square = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(square, 0.0)


def median_bandwidth(squared: Floats) -> float:
    """The median heuristic: sigma**2 = median of the squared distances of different points / 2.

    Gretton et al., *A Kernel Two-Sample Test* (JMLR 2012), section 8. ``squared`` is the square
    matrix of the pooled sample. Where at least half of the points coincide the mean stands in,
    and 1 where all do.
    """
    off_diagonal = squared[np.triu_indices(len(squared), k=1)]
    found = float(np.median(off_diagonal)) if len(off_diagonal) else 0.0
    found = found or (float(off_diagonal.mean()) if len(off_diagonal) else 0.0)
    return found / 2.0 or 1.0


def kernel(a: Floats, b: Floats, *, kind: str = "linear", bandwidth: float = 1.0) -> Floats:
    """``a_i . b_j``, or ``exp(-|a_i - b_j|**2 / (2 bandwidth))`` with bandwidth = sigma**2."""
    if kind not in KERNELS:
        raise ArgumentError(
            f"kernel={kind!r}, expected one of {', '.join(KERNELS)}", where="kernel"
        )
    if kind == "linear":
        return a @ b.T
    return np.exp(-squared_distances(a, b) / (2.0 * bandwidth))


def matrix(values: ArrayLike, *, what: str) -> Floats:
    """Finite features as float64 ``[n, D]`` with at least one row.

    Raises:
      ArgumentError: another shape.
      DataError: no rows, NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ArgumentError(f"shape {list(array.shape)}, expected [n, D]", where=what)
    if not array.size:
        raise DataError("there are no examples", where=what)
    if not np.isfinite(array).all():
        raise DataError("NaN or infinity among the features", where=what)
    return array


def pair(source: ArrayLike, target: ArrayLike) -> tuple[Floats, Floats]:
    """Both domains by :func:`matrix`, with the same number of features."""
    s, t = matrix(source, what="source"), matrix(target, what="target")
    if s.shape[1] != t.shape[1]:
        raise ArgumentError(
            f"{s.shape[1]} features in the source and {t.shape[1]} in the target",
            where="source, target",
            next_action="compute both with the same backbone",
        )
    return s, t
