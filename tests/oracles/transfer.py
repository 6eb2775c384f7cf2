"""Slow transcriptions of the papers' equations, one loop per sum, in float64."""

from __future__ import annotations

import numpy as np


def gaussian(a: np.ndarray, b: np.ndarray, sigma2: float) -> float:
    return float(np.exp(-np.sum((a - b) ** 2) / (2 * sigma2)))


def median_sigma2(x: np.ndarray) -> float:
    """Gretton et al. 2012, section 8: sigma is the median distance, sigma**2 = that / 2 here."""
    n = len(x)
    pairs = [np.sum((x[i] - x[j]) ** 2) for i in range(n) for j in range(i + 1, n)]
    return float(np.median(pairs) / 2)


def mmd_unbiased(x: np.ndarray, y: np.ndarray, sigma2s: list[float]) -> float:
    """Gretton et al. 2012, Lemma 6, equation 3, with the mean of several kernels."""
    m, n, total = len(x), len(y), 0.0
    for s in sigma2s:
        for i in range(m):
            for j in range(m):
                total += (i != j) * gaussian(x[i], x[j], s) / (m * (m - 1))
        for i in range(n):
            for j in range(n):
                total += (i != j) * gaussian(y[i], y[j], s) / (n * (n - 1))
        for i in range(m):
            for j in range(n):
                total -= 2 * gaussian(x[i], y[j], s) / (m * n)
    return total / len(sigma2s)


def mmd_biased(x: np.ndarray, y: np.ndarray, sigma2s: list[float]) -> float:
    """Gretton et al. 2012, equation 5 (squared)."""
    m, n, total = len(x), len(y), 0.0
    for s in sigma2s:
        total += sum(gaussian(a, b, s) for a in x for b in x) / m**2
        total += sum(gaussian(a, b, s) for a in y for b in y) / n**2
        total -= 2 * sum(gaussian(a, b, s) for a in x for b in y) / (m * n)
    return total / len(sigma2s)
