"""The scores against slow transcriptions of their equations, and what they must agree on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from tltf.errors import ArgumentError, DataError
from tltf.selection import scores


def blobs(*, n: int = 60, d: int = 5, apart: float = 2.0, seed: int = 0, classes: int = 3):
    """Gaussian features ``[n, d]`` around class centres, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = random.normal(0, apart, (classes, d))
    return centres[labels] + random.normal(0, 1, (n, d)), labels


def slow_evidence(features: np.ndarray, target: np.ndarray) -> float:
    """You et al. 2021: y ~ N(0, F F'/alpha + I/beta), maximised by a general optimizer."""
    n = len(features)

    def negative(logs: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(logs, -30, 30))
        covariance = features @ features.T / alpha + np.eye(n) / beta
        return -multivariate_normal(np.zeros(n), covariance).logpdf(target)

    starts = [np.array([a, b]) for a in (-2.0, 2.0, 5.0) for b in (0.0, 3.0)]
    options = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}
    found = [minimize(negative, x, method="Nelder-Mead", options=options) for x in starts]
    return max(-result.fun for result in found)


@pytest.mark.parametrize(("n", "d"), [(24, 4), (15, 30)])
def test_logme_is_the_maximum_of_the_marginal_likelihood(n: int, d: int) -> None:
    features, labels = blobs(n=n, d=d, apart=0.7)
    slow = np.mean([slow_evidence(features, (labels == c).astype(float)) for c in range(3)]) / n
    assert scores.logme(features, labels) == pytest.approx(slow, rel=1e-6)


def test_h_score_as_written() -> None:
    from sklearn.covariance import ledoit_wolf_shrinkage

    x, y = blobs(n=40, d=6)
    centred = x - x.mean(axis=0)
    shrink = ledoit_wolf_shrinkage(centred, assume_centered=True)
    total = np.zeros((6, 6))
    between = np.zeros((6, 6))
    for row, label in zip(centred, y, strict=True):
        mean = centred[y == label].mean(axis=0)
        total += np.outer(row, row) / 40
        between += np.outer(mean, mean) / 40
    shrunk = (1 - shrink) * total + shrink * np.trace(total) / 6 * np.eye(6)
    slow = (1 - shrink) * np.trace(np.linalg.inv(shrunk) @ between)
    assert scores.h_score(x, y) == pytest.approx(slow, rel=1e-9)


def test_nce_as_written() -> None:
    random = np.random.default_rng(1)
    z, y = random.integers(0, 4, 50), random.integers(0, 3, 50)
    slow = 0.0
    for a in range(3):
        for b in range(4):
            joint = np.mean((y == a) & (z == b))
            if joint:
                slow += joint * math.log(joint / np.mean(z == b))
    assert scores.nce(z, y) == pytest.approx(slow, rel=1e-12)


def test_leep_as_written() -> None:
    random = np.random.default_rng(2)
    theta = random.dirichlet(np.ones(4), 50)
    y = random.integers(0, 3, 50)
    slow = 0.0
    for i in range(50):
        inner = 0.0
        for z in range(4):
            joint = sum(theta[j, z] for j in range(50) if y[j] == y[i]) / 50
            inner += joint / (theta[:, z].sum() / 50) * theta[i, z]
        slow += math.log(inner) / 50
    assert scores.leep(theta, y) == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("score", [scores.logme, scores.h_score])
class TestOfFeatures:
    def test_grows_with_the_distance_of_the_classes(self, score) -> None:
        values = [score(*blobs(apart=apart)) for apart in (0.0, 0.5, 1.0, 2.0, 4.0)]
        assert values == sorted(values)

    def test_shuffled_labels_score_lower(self, score) -> None:
        x, y = blobs()
        assert score(x, np.random.default_rng(3).permutation(y)) < score(x, y)

    def test_order_of_examples_and_rotation_do_not_matter(self, score) -> None:
        x, y = blobs()
        order = np.random.default_rng(4).permutation(len(x))
        rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(5, 5)))
        assert score(x[order] @ rotation, y[order]) == pytest.approx(score(x, y), rel=1e-6)

    def test_more_features_than_examples_and_constant_ones(self, score) -> None:
        x, y = blobs(n=12, d=40)
        assert math.isfinite(score(x, y))
        assert math.isfinite(score(np.ones((12, 3)), y))

    def test_what_cannot_be_scored_is_refused(self, score) -> None:
        x, y = blobs()
        with pytest.raises(ArgumentError, match=r"\[60, 5\].*\[59\]"):
            score(x, y[1:])
        with pytest.raises(DataError, match="one class"):
            score(x, np.zeros(60, int))
        x[3, 1] = np.nan
        with pytest.raises(DataError, match="NaN"):
            score(x, y)


def test_leep_refuses_what_is_no_probability() -> None:
    with pytest.raises(ArgumentError, match="softmax"):
        scores.leep([[2.0, -1.0], [0.5, 0.5]], [0, 1])


def test_nce_refuses_other_lengths() -> None:
    with pytest.raises(ArgumentError, match=r"\[3\].*\[2\]"):
        scores.nce([1, 2, 3], [0, 1])


def test_source_scores_are_zero_at_best() -> None:
    y = np.arange(12) % 3
    assert scores.nce(y, y) == 0.0
    assert scores.leep(np.eye(3)[y], y) == pytest.approx(0.0)
