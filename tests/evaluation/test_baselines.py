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


def test_the_nearest_class_mean_is_scikit_learns() -> None:
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import StandardScaler

    train, val, test = split(1), split(2), split(3, n=300)
    found = baselines.nearest_class_mean(train, val, test.features)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    scaler = StandardScaler().fit(train.features)
    oracle = NearestCentroid().fit(scaler.transform(train.features), train.targets.argmax(axis=1))
    expected = oracle.predict(scaler.transform(test.features))
    assert (found.argmax(axis=1) == expected).all()
    # A class that nobody trained on is never said.
    two = Split(features=train.features, targets=np.eye(4)[train.targets.argmax(axis=1)])
    four = Split(features=val.features, targets=np.eye(4)[val.targets.argmax(axis=1)])
    assert (baselines.nearest_class_mean(two, four, test.features)[:, 3] == 0).all()


def test_more_labels_are_worth_something_here() -> None:
    train, test = split(1, n=240), split(3, n=300)
    noisy = Split(features=train.features * 0 + np.random.default_rng(5).normal(
        0, 1.5, train.features.shape) + np.eye(8)[train.targets.argmax(axis=1)] * 2,
        targets=train.targets)  # fmt: skip
    rows = baselines.label_curve(noisy, split(2), test.features, test.targets, draws=3)
    assert [row["share"] for row in rows] == [0.1, 0.25, 0.5, 1.0]
    assert [row["labels"] for row in rows] == [24, 60, 120, 240]
    assert [row["draws"] for row in rows] == [3, 3, 3, 1]
    values = [row["accuracy"]["value"] for row in rows]
    assert values[-1] > values[0]
    for row in rows:
        assert row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"]
    probe = baselines.probed(
        noisy,
        test.features,
        strength=baselines.best_strength(noisy, split(2), task="single_label"),
        task="single_label",
    )
    assert values[-1] == (probe.argmax(axis=1) == test.targets.argmax(axis=1)).mean()
