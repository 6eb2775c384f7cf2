"""The simple models that a trained one is compared with."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np

from tltf.evaluation import baselines
from tltf.evaluation.baselines import Labelled
from tltf.probes import folds


def split(seed: int, n: int = 60) -> Labelled:
    """Three classes that a line can tell apart, in float32 as networks give them."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    features = random.normal(0, 1, (n, 8)) + 4 * np.eye(8)[labels]
    return Labelled(
        features=features.astype("float32"),
        targets=np.eye(3)[labels],
        folds=folds.stratified(list(labels), [[i] for i in range(n)], count=5, seed=0),
    )


def test_a_linear_probe_in_float32_has_rows_that_sum_to_one() -> None:
    test = split(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = baselines.linear_probe(split(1), test.features, task="single_label")
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

    train, test = split(1), split(3, n=300)
    found = baselines.nearest_class_mean(train, test.features)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    scaler = StandardScaler().fit(train.features)
    oracle = NearestCentroid().fit(scaler.transform(train.features), train.targets.argmax(axis=1))
    expected = oracle.predict(scaler.transform(test.features))
    assert (found.argmax(axis=1) == expected).all()
    # A class that nobody trained on is never said.
    four = dataclasses.replace(train, targets=np.eye(4)[train.targets.argmax(axis=1)])
    assert (baselines.nearest_class_mean(four, test.features)[:, 3] == 0).all()


def test_more_labels_are_worth_something_here() -> None:
    train, test = split(1, n=240), split(3, n=300)
    noise = np.random.default_rng(5).normal(0, 1.5, train.features.shape)
    features = noise + np.eye(8)[train.targets.argmax(axis=1)] * 2
    noisy = dataclasses.replace(train, features=features)
    rows = baselines.label_curve(noisy, test.features, test.targets, draws=3)
    assert [row["share"] for row in rows] == [0.1, 0.25, 0.5, 1.0]
    assert [row["labels"] for row in rows] == [24, 60, 120, 240]
    assert [row["draws"] for row in rows] == [3, 3, 3, 1]
    values = [row["accuracy"]["value"] for row in rows]
    assert values[-1] > values[0]
    for row in rows:
        assert row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"]
    probe = baselines.linear_probe(noisy, test.features, task="single_label")
    assert values[-1] == (probe.argmax(axis=1) == test.targets.argmax(axis=1)).mean()


def test_draws_of_a_share_differ_and_keep_together_what_the_folds_kept_together() -> None:
    train = split(1, n=60)
    labels = train.targets.argmax(axis=1)
    first, second = (
        baselines._drawn(labels, 0.5, np.random.default_rng([0, draw])) for draw in (0, 1)
    )
    assert set(first) != set(second)
    part = baselines._part(train, first, seed=0)
    sides = {i: k for k, (_, held) in enumerate(train.folds) for i in held}
    for _, held in part.folds:
        assert len({sides[first[i]] for i in held}) == 1
