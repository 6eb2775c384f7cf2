"""The simple models that a trained one is compared with."""

from __future__ import annotations

import warnings

import numpy as np

from tltf.evaluation import baselines
from tltf.evaluation.baselines import Split


def split(seed: int, n: int = 60) -> Split:
    """Three classes that a line can tell apart, in float32 as networks give them."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = random.normal(0, 1, (n, 8)) + 4 * np.eye(8)[labels]
    return Split(features=features.astype("float32"), targets=np.eye(3)[labels])


def test_a_linear_probe_in_float32_has_rows_that_sum_to_one() -> None:
    test = split(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = baselines.linear_probe(split(1), split(2), test.features, task="single_label")
    assert found.shape == (60, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    assert (found.argmax(axis=1) == test.targets.argmax(axis=1)).mean() > 0.9


def test_the_majority_is_the_share_of_each_class() -> None:
    targets = np.eye(2)[[0, 0, 0, 1]]
    found = baselines.majority(targets, n=5)
    np.testing.assert_allclose(found, np.tile([0.75, 0.25], (5, 1)))
