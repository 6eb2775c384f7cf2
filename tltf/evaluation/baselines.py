"""What a simpler thing would do on the same split: the majority class, the nearest class mean, a
linear probe; and what more labels would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tltf.evaluation.calibration import apply_temperature, fit_temperature
from tltf.evaluation.verdict import mean_accuracy

Floats = NDArray[np.floating]
SHARES = (0.1, 0.25, 0.5, 1.0)
DRAWS = 5

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


def nearest_class_mean(train: Split, val: Split, test_features: Floats) -> Floats:
    """The class whose mean feature vector is nearest, on standardised features; float [n, C].

    Logits are minus the squared distances; one temperature, fitted on ``val``, makes them
    probabilities. For single_label only. A class without a training record is never said.
    """
    scaler = StandardScaler().fit(train.features.astype(np.float64))
    labels = train.targets.argmax(axis=1)
    x = scaler.transform(train.features)
    present = np.unique(labels)
    means = np.stack([x[labels == c].mean(axis=0) for c in present])

    def logits(features: Floats) -> Floats:
        z = scaler.transform(features)
        squared = (z**2).sum(1)[:, None] - 2 * z @ means.T + (means**2).sum(1)[None, :]
        return np.asarray(-squared / z.shape[1])

    known = np.isin(val.targets.argmax(axis=1), present)
    temperature = 1.0
    if known.any():
        places = np.searchsorted(present, val.targets.argmax(axis=1)[known])
        temperature = fit_temperature(logits(val.features[known]), places, task="single_label")
    answer: Floats = np.zeros((len(test_features), train.targets.shape[1]))
    found = apply_temperature(logits(test_features), temperature, task="single_label")
    answer[:, present] = found
    return answer


def linear_probe(train: Split, val: Split, test_features: Floats, *, task: str) -> Floats:
    """The best regularised linear model on frozen features.

    Logistic regression (one per label for multi_label), or ridge regression, on standardised
    features; its strength has the least log-loss (squared error) on ``val``. The test split
    is only predicted.

    Returns:
      Probabilities float [n, C], or predictions [n, 1] for regression.
    """
    strength = best_strength(train, val, task=task)
    return probed(train, test_features, strength=strength, task=task)


def best_strength(train: Split, val: Split, *, task: str) -> float:
    """The strength of regularisation with the least loss on ``val``."""
    losses = [
        _loss(val.targets, probed(train, val.features, strength=strength, task=task), task)
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(losses))]


def probed(train: Split, features: Floats, *, strength: float, task: str) -> Floats:
    """What the linear model of one strength says of ``features``; float [n, C]."""
    # In float32 rows of probabilities add up to 1 only to 1e-6, which scikit-learn objects to.
    x = train.features.astype(np.float64)
    model = _model(strength, task).fit(x, _labels(train.targets, task))
    return _predict(model, features.astype(np.float64), train.targets, task)


def label_curve(
    train: Split,
    val: Split,
    test_features: Floats,
    test_targets: Floats,
    *,
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How accuracy grows with the number of labels, by a linear probe; single_label only.

    Args:
      train, val, test_features: frozen features, as for :func:`linear_probe`.
      test_targets: one-hot [n, C].
      shares: of the training labels, in (0, 1].
      draws: how often each share is drawn, stratified; all of the labels are drawn once.
      groups: the group of each test record, if any.
      seed: of the drawing.

    Returns:
      Rows ``{"share", "labels", "accuracy": {"value", "low", "high", "n"}, "draws"}``; the interval
      is about test records and draws.
    """
    strength = best_strength(train, val, task="single_label")
    truth, labels = test_targets.argmax(axis=1), train.targets.argmax(axis=1)
    rows: list[dict[str, Any]] = []
    for share in shares:
        correct = []
        for draw in range(draws if share < 1 else 1):
            chosen = _drawn(labels, share, np.random.default_rng([seed, draw]))
            part = Split(features=train.features[chosen], targets=train.targets[chosen])
            said = probed(part, test_features, strength=strength, task="single_label")
            correct.append(said.argmax(axis=1) == truth)
        estimate = mean_accuracy(np.stack(correct), groups=groups).as_dict()
        rows.append(
            {"share": share, "labels": len(chosen), "accuracy": estimate, "draws": len(correct)}
        )
    return rows


def _drawn(labels: Floats, share: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """Positions of a share of every class, at least one of each."""
    parts = []
    for c in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == c))
        parts.append(of_class[: max(1, round(share * len(of_class)))])
    return np.sort(np.concatenate(parts))


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
