"""What a simpler thing would do on the same split: the majority class, the nearest class mean, a
linear probe; and what more labels would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.preprocessing import StandardScaler

from tltf.evaluation.calibration import apply_temperature, fit_temperature
from tltf.evaluation.verdict import mean_accuracy
from tltf.probes import folds
from tltf.probes.folds import Fold
from tltf.probes.linear import Basis, Targets, cross_fit, fitted

Floats = NDArray[np.floating]
SHARES = (0.1, 0.25, 0.5, 1.0)
DRAWS = 5
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """All that a method may learn from.

    Args:
      features: pooled, float ``[n, D]``.
      targets: float ``[n, C]``: one-hot, multi-hot or ``[n, 1]``.
      folds: which examples to fit on and which to predict, to choose by.
    """

    features: Floats
    targets: Floats
    folds: Sequence[Fold]


def majority(train_targets: Floats, *, n: int) -> Floats:
    """The same answer for everyone: class shares, label shares, or the mean; float [n, C]."""
    return np.tile(train_targets.mean(axis=0), (n, 1)).astype(np.float64)


def nearest_class_mean(train: Labelled, test_features: Floats) -> Floats:
    """The class whose mean feature vector is nearest, on standardised features; float [n, C].

    Logits are minus the squared distances; one temperature, fitted out of fold, makes them
    probabilities. For single_label only. A class without a training record is never said.
    """
    labels = train.targets.argmax(axis=1)
    present = np.unique(labels)
    logits = np.full((len(labels), len(present)), np.nan)
    for fit, held in train.folds:
        if len(np.unique(labels[fit])) == len(present):
            logits[held] = _distances(train.features[fit], labels[fit], train.features[held])
    known = np.flatnonzero(np.isfinite(logits).all(axis=1))
    temperature = 1.0
    if len(known):
        places = np.searchsorted(present, labels[known])
        temperature = fit_temperature(logits[known], places, task="single_label")
    answer: Floats = np.zeros((len(test_features), train.targets.shape[1]))
    found = _distances(train.features, labels, test_features)
    answer[:, present] = apply_temperature(found, temperature, task="single_label")
    return answer


def _distances(features: Floats, labels: Floats, asked: Floats) -> Floats:
    """Minus the mean squared distances ``[m, classes]`` from the means of the classes there."""
    scaler = StandardScaler().fit(features.astype(np.float64))
    x, z = scaler.transform(features), scaler.transform(asked)
    means = np.stack([x[labels == c].mean(axis=0) for c in np.unique(labels)])
    squared = (z**2).sum(1)[:, None] - 2 * z @ means.T + (means**2).sum(1)[None, :]
    return np.asarray(-squared / z.shape[1])


def linear_probe(train: Labelled, test_features: Floats, *, task: str) -> Floats:
    """The best regularised linear model on frozen features: the rival that costs ten lines.

    Logistic regression (one per label for multi_label), or ridge regression
    (:mod:`tltf.probes.linear`); its strength has the least loss out of fold, and all labelled
    examples are then fitted. The test split is only predicted.

    Returns:
      Probabilities float [n, C], or predictions [n, 1] for regression.
    """
    width = train.features.shape[1]
    targets = Targets(
        values=train.targets.astype(np.float64), weights=np.ones(len(train.targets)), task=task
    )
    basis = Basis.of(train.features, [width])
    strength = cross_fit(basis.rows, targets, train.folds, width=width).strength
    head = basis.head(fitted(basis.rows, targets, strength, width=width))
    found = head(test_features.astype(np.float64))
    if task == "regression":
        return found
    return np.asarray(expit(found) if task == "multi_label" else softmax(found, axis=1))


def label_curve(
    train: Labelled,
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
      train, test_features: frozen features, as for :func:`linear_probe`.
      test_targets: one-hot [n, C].
      shares: of the training labels, in (0, 1].
      draws: how often each share is drawn, stratified; all of the labels are drawn once. The
        strength is chosen anew within each draw, as somebody with so few labels would have to.
      groups: the group of each test record, if any.
      seed: of the drawing.

    Returns:
      Rows ``{"share", "labels", "accuracy": {"value", "low", "high", "n"}, "draws"}``; the interval
      is about test records and draws.
    """
    truth, labels = test_targets.argmax(axis=1), train.targets.argmax(axis=1)
    rows: list[dict[str, Any]] = []
    for share in shares:
        correct = []
        for draw in range(draws if share < 1 else 1):
            chosen = _drawn(labels, share, np.random.default_rng([seed, draw]))
            part = train if share == 1 else _part(train, chosen, seed=seed)
            said = linear_probe(part, test_features, task="single_label")
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


def _part(train: Labelled, chosen: NDArray[np.intp], *, seed: int) -> Labelled:
    """Some of the examples; what belonged together in the folds of all still does."""
    place = np.full(len(train.targets), -1)
    for k, (_, held) in enumerate(train.folds):
        place[held] = k
    labels = train.targets[chosen].argmax(axis=1)
    found = [
        (np.flatnonzero(place[chosen] != k), np.flatnonzero(place[chosen] == k))
        for k in range(len(train.folds))
    ]
    # A fold whose model would not know every class says nothing about strengths.
    useful = [
        (fit, held)
        for fit, held in found
        if len(held) and len(np.unique(labels[fit])) == len(np.unique(labels))
    ]
    if not useful:
        alone = [[i] for i in range(len(chosen))]
        useful = folds.stratified(list(labels), alone, count=FOLDS, seed=seed)
    return Labelled(
        features=train.features[chosen], targets=train.targets[chosen], folds=tuple(useful)
    )
