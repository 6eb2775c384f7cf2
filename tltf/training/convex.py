"""The head of a frozen backbone by L-BFGS: with features fixed, it is a convex problem.

For one linear layer on fixed features h the penalised log-loss

    sum_i w_i loss(y_i, A z_i + b) + |A|^2 / (2 C),    z = (h - mean) / deviation,

has one minimum, which scikit-learn finds in a few dozen passes over the features; gradient
descent with a schedule stops somewhere near it. C has the least loss on validation. The
solution is written into the head's Dense layer in terms of h, standardisation folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from tltf.errors import ArgumentError
from tltf.models import heads
from tltf.models.classifier import backbone_of, feature_model

Floats = NDArray[np.floating]

STRENGTHS: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0)
"""C of the formula above (1 / alpha of Ridge)."""
TOLERANCE, ITERATIONS = 1e-6, 3000
ABSENT = -20.0
"""Logit of a class that no training example has: a probability of 2e-9."""


@dataclass(frozen=True)
class Rows:
    """Features float [n, D], targets float [n, C] as the loss takes them, weights [n]."""

    features: Floats
    targets: Floats
    weights: Floats


@dataclass(frozen=True)
class Solution:
    """kernel [D, C] and bias [C] for features as they come, the C chosen, its validation loss."""

    kernel: Floats
    bias: Floats
    strength: float
    loss: float


def solve(train: Rows, validation: Rows, *, task: str) -> Solution:
    """The best of the linear heads over :data:`STRENGTHS`, each at its optimum.

    Args:
      train: all views of the training examples.
      validation: chooses the strength.
      task: ``single_label``, ``multi_label`` or ``regression``.

    Example::

      found = solve(train, validation, task="single_label")
      logits = validation.features @ found.kernel + found.bias
    """
    mean = train.features.mean(axis=0, dtype=np.float64)
    deviation = train.features.std(axis=0, dtype=np.float64)
    deviation[deviation == 0.0] = 1.0
    scaled = (train.features - mean) / deviation
    best: Solution | None = None
    for strength in STRENGTHS:
        coefficients, intercepts = _fitted(scaled, train.targets, train.weights, task, strength)
        kernel = coefficients / deviation[:, None]
        bias = intercepts - mean @ kernel
        loss = mean_loss(validation.features @ kernel + bias, validation, task)
        if best is None or loss < best.loss:
            best = Solution(kernel, bias, strength, loss)
    if best is None:
        raise ArgumentError("no strength to choose from", where="convex head")
    return best


def mean_loss(logits: Floats, rows: Rows, task: str) -> float:
    """Weighted mean of softmax or sigmoid cross-entropy, or of squared errors."""
    targets = rows.targets
    if task == "regression":
        losses = ((logits - targets) ** 2).mean(axis=1)
    elif task == "single_label":
        losses = np.logaddexp.reduce(logits, axis=1) - (targets * logits).sum(axis=1)
    else:
        losses = (np.logaddexp(0.0, logits) - targets * logits).mean(axis=1)
    return float(np.average(losses, weights=rows.weights))


def collected(batches: Iterable[tuple[Any, ...]], features: Callable[[Any], Any]) -> Rows:
    """All batches of ``(x, y)`` or ``(x, y, weight)``, with ``features(x)`` float ``[b, D]``."""
    xs, ys, ws = [], [], []
    for x, y, *weight in batches:
        xs.append(np.asarray(features(x)))
        ys.append(np.asarray(y))
        ws.append(np.asarray(weight[0]) if weight else np.ones(len(ys[-1])))
    return Rows(np.concatenate(xs), np.concatenate(ys), np.concatenate(ws).astype(np.float64))


def linear_layer(model: keras.Model) -> keras.layers.Dense:
    """The one layer with weights of the model's head.

    Raises:
      ArgumentError: the head has hidden layers, so the problem is not convex.
    """
    head = model.get_layer(heads.HEAD)
    weighted = [layer for layer in head.layers if layer.weights]
    dense = [layer for layer in weighted if isinstance(layer, keras.layers.Dense)]
    if len(weighted) != 1 or len(dense) != 1:
        raise ArgumentError(
            "the head has hidden layers, so its loss has more than one minimum",
            where="--head_solver=lbfgs",
            next_action="leave --hidden out, or use --head_solver=gradient",
        )
    return dense[0]


def features_of(part: keras.Model) -> Callable[[Any], Any]:
    """Pooled features as a function of ``part``'s input.

    ``part`` is the whole model, or the tail that reads stored pooled features.
    """
    if backbone_of(part) is None:
        return lambda x: x[0]
    return tf.function(feature_model(part), reduce_retracing=True)


def _fitted(
    scaled: Floats, targets: Floats, weights: Floats, task: str, strength: float
) -> tuple[Floats, Floats]:
    """Coefficients [D, C] and intercepts [C] for standardised features."""
    if task == "regression":
        ridge = Ridge(alpha=1.0 / strength).fit(scaled, targets, sample_weight=weights)
        outputs = targets.shape[1]
        return ridge.coef_.reshape(outputs, -1).T, np.reshape(ridge.intercept_, outputs)
    if task == "single_label":
        return _softmax(scaled, targets, weights, strength)
    columns = [_sigmoid(scaled, column, weights, strength) for column in targets.T]
    return (
        np.stack([coefficients for coefficients, _ in columns], axis=1),
        np.array([intercept for _, intercept in columns]),
    )


def _softmax(
    scaled: Floats, targets: Floats, weights: Floats, strength: float
) -> tuple[Floats, Floats]:
    labels, outputs = targets.argmax(axis=1), targets.shape[1]
    coefficients = np.zeros((scaled.shape[1], outputs))
    intercepts = np.full(outputs, ABSENT)
    seen = np.unique(labels)
    if len(seen) == 1:
        intercepts[seen] = 0.0
        return coefficients, intercepts
    model = _logistic(strength).fit(scaled, labels, sample_weight=weights)
    if len(seen) == 2:
        # scikit-learn gives one logit for two classes; half of it each is the same softmax.
        coefficients[:, seen] = np.outer(model.coef_[0], (-0.5, 0.5))
        intercepts[seen] = model.intercept_[0] * np.array((-0.5, 0.5))
    else:
        coefficients[:, seen], intercepts[seen] = model.coef_.T, model.intercept_
    return coefficients, intercepts


def _sigmoid(
    scaled: Floats, column: Floats, weights: Floats, strength: float
) -> tuple[Floats, float]:
    if len(np.unique(column)) == 1:
        return np.zeros(scaled.shape[1]), -ABSENT if column[0] else ABSENT
    model = _logistic(strength).fit(scaled, column.astype(int), sample_weight=weights)
    return model.coef_[0], float(model.intercept_[0])


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, tol=TOLERANCE, max_iter=ITERATIONS)
