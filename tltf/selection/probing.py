"""How well simple classifiers do on features, by cross-validation: which examples they get right.

Every example is predicted once, by a classifier that did not see it, so candidates are compared
example by example.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from tltf.errors import DataError

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FOLDS = 5
NEIGHBOURS = 5
STRENGTHS: Sequence[float] = (0.001, 0.01, 0.1, 1.0)
INNER_SHARE = 0.25

Fit = Callable[[Floats, Ints], Callable[[Floats], Ints]]
"""From training features and labels to a function from features to predicted labels."""


def linear_probe_hits(
    features: Floats, labels: Ints, *, strengths: Sequence[float] = STRENGTHS, seed: int = 0
) -> Bools:
    """Whether a logistic regression gets each example right; bool ``[n]``.

    On standardised features, by L-BFGS. In every fold the strength of the L2 penalty (C, its
    inverse) is the one with the least log-loss on a quarter of that fold's training part.

    Args:
      features: ``[n, D]``.
      labels: class indices ``[n]``; every class at least twice.
      strengths: values of C to choose from; one value is used as it is.
      seed: of the folds.

    Raises:
      DataError: a class with a single example.
    """

    def fit(x: Floats, y: Ints) -> Callable[[Floats], Ints]:
        rotated, rotate = _rotation(x)
        strength = strengths[0] if len(strengths) == 1 else _strength(rotated, y, strengths, seed)
        model = LogisticRegression(C=strength, max_iter=1000).fit(rotated, y)
        return lambda new: model.predict(rotate(new))

    return _hits(features, labels, fit, seed=seed)


def neighbour_hits(features: Floats, labels: Ints, *, seed: int = 0) -> Bools:
    """Whether the majority of the 5 nearest by cosine gets each example right; bool ``[n]``."""

    def fit(x: Floats, y: Ints) -> Callable[[Floats], Ints]:
        count = min(NEIGHBOURS, len(x))
        return make_pipeline(Normalizer(), KNeighborsClassifier(count)).fit(x, y).predict

    return _hits(features, labels, fit, seed=seed)


def class_mean_hits(features: Floats, labels: Ints, *, seed: int = 0) -> Bools:
    """Whether the nearest class mean gets each example right; bool ``[n]``."""

    def fit(x: Floats, y: Ints) -> Callable[[Floats], Ints]:
        with warnings.catch_warnings():
            # A feature that never fires has no deviation, which does not disturb a mean.
            warnings.filterwarnings("ignore", message=".*zero standard deviation")
            return make_pipeline(StandardScaler(), NearestCentroid()).fit(x, y).predict

    return _hits(features, labels, fit, seed=seed)


def folds(labels: Ints, *, seed: int = 0) -> list[tuple[Ints, Ints]]:
    """Stratified folds: five, or as many as the rarest class has examples.

    Raises:
      DataError: a class with a single example.
    """
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    if rarest < 2:
        raise DataError(
            "a class has a single example, expected two or more to validate across",
            where="--data",
            next_action="add examples of it, or leave the class out",
        )
    splitter = StratifiedKFold(min(FOLDS, rarest), shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros((len(labels), 1)), labels))


def _hits(features: Floats, labels: Ints, fit: Fit, *, seed: int) -> Bools:
    x = np.asarray(features, dtype=np.float64)
    hits = np.zeros(len(labels), dtype=bool)
    for train, held_out in folds(labels, seed=seed):
        hits[held_out] = fit(x[train], labels[train])(x[held_out]) == labels[held_out]
    return hits


def _rotation(x: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Standardised features in an orthonormal basis of the rows, and the map for others.

    An L2-penalised linear model depends on inner products only, so with more features than
    examples the n coordinates in the span of the examples give the very same model, sooner.
    """
    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    if scaled.shape[1] <= len(scaled):
        return scaled, scaler.transform
    _, s, basis = np.linalg.svd(scaled, full_matrices=False)
    basis = basis[s > 1e-9 * max(float(s[0]), 1e-300)]
    return scaled @ basis.T, lambda new: scaler.transform(new) @ basis.T


def _strength(x: Floats, y: Ints, strengths: Sequence[float], seed: int) -> float:
    """The C with the least log-loss on a quarter of the examples."""
    counts = np.bincount(y)[np.unique(y)]
    # Too few to hold some out of every class: the middle of the range.
    if counts.min() < 2 or INNER_SHARE * len(y) < len(counts):
        return strengths[len(strengths) // 2]
    parts = train_test_split(x, y, test_size=INNER_SHARE, random_state=seed, stratify=y)
    x_fit, x_val, y_fit, y_val = parts

    def loss(strength: float) -> float:
        model = LogisticRegression(C=strength, max_iter=1000).fit(x_fit, y_fit)
        return float(log_loss(y_val, model.predict_proba(x_val), labels=model.classes_))

    return min(strengths, key=loss)
