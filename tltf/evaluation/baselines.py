"""What a simpler thing would do on the same split: the majority class, a linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.floating]

STRENGTHS: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0)
"""C of scikit-learn's LogisticRegression (1 / alpha of Ridge), chosen on validation."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Pooled features float [n, D] and targets float [n, C] (one-hot, multi-hot or [n, 1])."""

    features: Floats
    targets: Floats


def majority(train_targets: Floats, *, n: int) -> Floats:
    """The same answer for everyone: class shares, label shares, or the mean; float [n, C]."""
    return np.tile(train_targets.mean(axis=0), (n, 1)).astype(np.float64)


def linear_probe(train: Split, val: Split, test_features: Floats, *, task: str) -> Floats:
    """The best regularised linear model on frozen features.

    Logistic regression (one per label for multi_label), or ridge regression, on standardised
    features; its strength has the least log-loss (squared error) on ``val``. The test split
    is only predicted.

    Returns:
      Probabilities float [n, C], or predictions [n, 1] for regression.
    """
    # In float32 rows of probabilities add up to 1 only to 1e-6, which scikit-learn objects to.
    train, val = (
        dataclasses.replace(split, features=split.features.astype(np.float64))
        for split in (train, val)
    )
    test_features = test_features.astype(np.float64)
    best = np.inf
    answer: Floats = np.empty((0, 0))
    for strength in STRENGTHS:
        model = _model(strength, task).fit(train.features, _labels(train.targets, task))
        loss = _loss(val.targets, _predict(model, val.features, train.targets, task), task)
        if loss < best:
            best, answer = loss, _predict(model, test_features, train.targets, task)
    return answer


def _model(strength: float, task: str) -> Pipeline:
    if task == "regression":
        return make_pipeline(StandardScaler(), Ridge(alpha=1.0 / strength))
    logistic = LogisticRegression(C=strength, max_iter=2000)
    head = MultiOutputClassifier(logistic) if task == "multi_label" else logistic
    return make_pipeline(StandardScaler(), head)


def _labels(targets: Floats, task: str) -> Floats:
    if task == "single_label":
        return targets.argmax(axis=1)
    if task == "multi_label":
        # A label that all or none carry cannot be fitted; see _predict.
        return targets[:, _varying(targets)].astype(int)
    return targets[:, 0]


def _predict(model: Pipeline, features: Floats, train_targets: Floats, task: str) -> Floats:
    if task == "regression":
        return np.asarray(model.predict(features))[:, None]
    found = model.predict_proba(features)
    if task == "single_label":
        full: Floats = np.zeros((len(features), train_targets.shape[1]))
        # float32 features give rows that sum to one in float32 only.
        full[:, model.classes_] = found
        full /= full.sum(axis=1, keepdims=True)
        return full
    full = majority(train_targets, n=len(features))
    full[:, _varying(train_targets)] = np.column_stack([p[:, 1] for p in found])
    return full


def _varying(targets: Floats) -> NDArray[np.intp]:
    shares = targets.mean(axis=0)
    return np.flatnonzero((shares > 0) & (shares < 1))


def _loss(targets: Floats, predicted: Floats, task: str) -> float:
    if task == "regression":
        return float(np.mean((targets - predicted) ** 2))
    if task == "single_label":
        return float(log_loss(targets.argmax(axis=1), predicted, labels=range(targets.shape[1])))
    p = np.clip(predicted, 1e-12, 1 - 1e-12)
    return float(-np.mean(targets * np.log(p) + (1 - targets) * np.log(1 - p)))
