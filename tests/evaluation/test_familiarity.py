"""The distance from training data equals its slow transcription, and finds strangers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import oas
from sklearn.metrics import roc_auc_score

from tltf.errors import ArgumentError, DataError
from tltf.evaluation.familiarity import (
    distances,
    fit_familiarity,
    from_tensors,
    unknown_block,
)


def data(n: int, dimension: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(9).normal(0, 3, (classes, dimension))
    scales = np.linspace(0.2, 2.0, dimension)
    return centres[y] + rng.normal(0, 1, (n, dimension)) * scales, y


@pytest.mark.parametrize(("n", "dimension"), [(200, 12), (40, 90)])
def test_it_is_the_distance_of_mahalanobis(n: int, dimension: int) -> None:
    x, y = data(n, dimension)
    held, _ = data(30, dimension, seed=1)
    found = fit_familiarity(x, y, validation=held)
    assert found is not None
    means = np.stack([x[y == c].mean(axis=0) for c in range(3)])
    covariance, _ = oas(x - means[y], assume_centered=True)
    inverse = np.linalg.inv(covariance)
    slow = np.array([min((v - m) @ inverse @ (v - m) for m in means) for v in held]) ** 0.5
    np.testing.assert_allclose(distances(found, held), slow, rtol=2e-4)
    assert np.mean(found.score(held) <= 1.0) == pytest.approx(0.95, abs=0.02)
    again = from_tensors(found.tensors())
    np.testing.assert_allclose(again.score(held), found.score(held), rtol=1e-6)


def test_many_features_keep_the_largest_directions() -> None:
    x, y = data(400, 300)
    held, _ = data(50, 300, seed=1)
    found = fit_familiarity(x, y, validation=held)
    assert found is not None
    assert found.directions.shape == (300, 128)
    far, _ = data(50, 300, seed=2)
    assert np.median(found.score(far + 5)) > np.quantile(found.score(held), 0.99)


def test_strangers_are_told_from_the_known() -> None:
    x, y = data(300, 10)
    held, _ = data(100, 10, seed=1)
    test, _ = data(80, 10, seed=2)
    found = fit_familiarity(x, y, validation=held)
    assert found is not None
    strangers = np.random.default_rng(3).normal(0, 3, (60, 10))
    known, unknown = found.score(test), found.score(strangers)
    block = unknown_block(known, unknown)
    truth = np.repeat([0, 1], [80, 60])
    expected = roc_auc_score(truth, np.concatenate([known, unknown]))
    assert block["auroc"]["value"] == pytest.approx(expected)
    assert block["auroc"]["low"] < expected <= block["auroc"]["high"]
    limit = np.quantile(known, 0.95)
    assert block["fpr95"] == pytest.approx(np.mean(unknown <= limit))
    assert block["auroc"]["value"] > 0.9
    same = unknown_block(known[:40], known[40:])["auroc"]
    assert same["low"] < 0.5 < same["high"]


def test_ties_count_half() -> None:
    block = unknown_block([1.0, 1.0, 2.0], [1.0, 3.0])
    assert block["auroc"]["value"] == pytest.approx((1.0 + 0.5 * 2 / 3) / 2)


def test_what_cannot_be_fitted() -> None:
    constant = np.ones((5, 3))
    assert fit_familiarity(constant, np.zeros(5), validation=constant) is None
    with pytest.raises(ArgumentError, match=r"expected \[n, D\]"):
        fit_familiarity(np.ones(5), np.zeros(5), validation=constant)
    with pytest.raises(DataError, match="NaN"):
        fit_familiarity(constant * np.nan, np.zeros(5), validation=constant)
