"""Linear heads on fixed features: convex problems, solved for one strength after the other.

With features z and targets y the penalised problem

    minimise over A, b   sum_i w_i loss(y_i, A z_i + b) + D |A|^2 / (2 C),

D numbers in z, has one minimum: softmax or sigmoid cross-entropy by scikit-learn's L-BFGS, squared
error in closed form by its ridge regression. C is the *strength* with which examples speak against
the penalty; divided by D it means the same for every number of features. A path over C starts at
the strongest penalty, and each solution is where the next one begins.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Fold = tuple[Ints, Ints]
"""Which rows a model is fitted on, and which it is asked about."""

STRENGTHS: Sequence[float] = tuple(10.0 ** (k / 2) for k in range(-4, 9))
"""0.01 to 10,000, by half powers of ten."""
IDLE_IN_A_ROW, IDLE, BEGUN = 2, 0.005, 0.9
"""After so many strengths that raise the loss, or lower it by less than this share once it has
fallen below 0.9 of the first one's, a path ends: the last strengths cost the most."""
TOLERANCE, ITERATIONS = 1e-4, 500
ABSENT = -20.0
"""Logit of a class that no training example has: a probability of 2e-9."""
NEGLIGIBLE = 1e-7
"""Share of the largest variance below which a direction is rounding noise."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is to be predicted.

    Args:
      values: float ``[n, C]``: one-hot, multi-hot, or ``[n, 1]`` numbers.
      weights: float ``[n]``, >= 0.
      task: ``single_label``, ``multi_label`` or ``regression``.
    """

    values: Floats
    weights: Floats
    task: str

    def __getitem__(self, rows: Ints) -> Targets:
        return Targets(values=self.values[rows], weights=self.weights[rows], task=self.task)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Head:
    """``logits = features @ kernel + bias``; kernel ``[D, C]``, bias ``[C]``."""

    kernel: Floats
    bias: Floats

    def __call__(self, features: Floats) -> Floats:
        return np.asarray(features @ self.kernel + self.bias)


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Scaled features in coordinates of which there are never more than examples.

    Each part of the features (the numbers of one tap) is centred and divided by one number, the
    root of its mean variance: what a part's numbers say of each other stays, and a number that
    hardly ever moves is not blown up, as it would be by dividing it by its own deviation.

    An L2-penalised linear model depends on inner products only, so with more numbers than
    examples the n principal coordinates ``U sqrt(L)`` of ``X X^T = U L U^T`` give the very same
    models; L-BFGS needs a fraction of the steps there that it needs in coordinates which are
    correlated. The scaling has seen all rows, but no label.

    Args:
      rows: coordinates ``[n, r]``, r <= min(n, D).
      mean: of the features ``[D]``.
      scale: ``[D]``, by which the centred features were divided.
      directions: ``[D, r]``: scaled features times this are the coordinates; None if they are
        their own.
    """

    rows: Floats
    mean: Floats
    scale: Floats
    directions: Floats | None

    @classmethod
    def of(cls, features: Floats, widths: Sequence[int]) -> Basis:
        """Of features ``[n, D]`` that consist of parts of such widths, in this order."""
        mean = features.mean(axis=0, dtype=np.float64)
        parts = np.repeat(np.arange(len(widths)), widths)
        variances = features.var(axis=0, dtype=np.float64)
        typical = np.bincount(parts, variances) / np.asarray(widths)
        scale = np.sqrt(np.where(typical > 0, typical, 1.0))[parts]
        scaled = ((features - mean) / scale).astype(np.float32)
        if scaled.shape[1] <= len(scaled):
            return cls(rows=scaled.astype(np.float64), mean=mean, scale=scale, directions=None)
        values, vectors = np.linalg.eigh((scaled @ scaled.T).astype(np.float64))
        kept = values > NEGLIGIBLE * max(float(values[-1]), NEGLIGIBLE)
        roots = np.sqrt(values[kept])
        directions = scaled.T @ (vectors[:, kept] / roots)
        return cls(rows=vectors[:, kept] * roots, mean=mean, scale=scale, directions=directions)

    def head(self, found: Head) -> Head:
        """A head on :attr:`rows` as one on the features as they came."""
        kernel = found.kernel if self.directions is None else self.directions @ found.kernel
        kernel = kernel / self.scale[:, None]
        return Head(kernel=kernel, bias=found.bias - self.mean @ kernel)


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """The strength with the least loss out of fold, and what was predicted with it.

    Args:
      strength: C of the formula above.
      logits: ``[n, C]``: every row by a model that was not fitted on it; NaN where none was asked.
      loss: mean loss of those, see :func:`losses`.
    """

    strength: float
    logits: Floats
    loss: float


def cross_fit(
    rows: Floats,
    targets: Targets,
    folds: Sequence[Fold],
    *,
    width: int,
    strengths: Sequence[float] = STRENGTHS,
) -> CrossFit:
    """The path of every fold side by side, until the loss out of fold gets no lower.

    Args:
      rows: ``[n, r]``, for example :attr:`Basis.rows`.
      targets: of the rows.
      folds: which rows to fit on and which to predict.
      width: D of the formula above.
      strengths: ascending.

    Example::

      basis = Basis.of(features, [features.shape[1]])
      found = cross_fit(basis.rows, targets, folds, width=features.shape[1])
    """
    paths = [Path(rows[fit], targets[fit], width=width) for fit, _ in folds]
    counted = learnable(targets, folds)
    best: CrossFit | None = None
    idle, first = 0, np.inf
    for strength in strengths:
        logits = np.full(targets.values.shape, np.nan)
        for path, (_, held) in zip(paths, folds, strict=True):
            logits[held] = path(strength)(rows[held])
        loss = mean_loss(logits[counted], targets[counted])
        before, first = (loss, loss) if best is None else (best.loss, first)
        if best is None or loss < before:
            best = CrossFit(strength=strength, logits=logits, loss=loss)
        least = (1 - IDLE) * before if before < BEGUN * first else before
        idle = 0 if loss < least or strength == strengths[0] else idle + 1
        if idle == IDLE_IN_A_ROW:
            break
    if best is None:
        raise ValueError("no strength to choose from")
    return best


def learnable(targets: Targets, folds: Sequence[Fold]) -> Ints:
    """The rows that a fold predicts, without those of a class that its model never saw.

    A class with a single example says nothing about strengths: whoever holds it out does not know
    it, whatever the strength. All predicted rows if nothing else is left.
    """
    known = []
    for fit, held in folds:
        seen = targets.values[fit].any(axis=0)
        alone = targets.task == "single_label"
        known.append(held[~targets.values[held][:, ~seen].any(axis=1)] if alone else held)
    found = np.sort(np.concatenate(known))
    return found if len(found) else np.sort(np.concatenate([held for _, held in folds]))


def fitted(
    rows: Floats,
    targets: Targets,
    strength: float,
    *,
    width: int,
    strengths: Sequence[float] = STRENGTHS,
) -> Head:
    """The head of one strength on all rows, by the way that :func:`cross_fit` takes to it.

    A weak penalty leaves long flat valleys, in which a head that comes from elsewhere stops at
    other places: less sure ones, if it comes from nowhere. The temperature that fits the heads of
    the folds fits this one only if they all came the same way.
    """
    path = Path(rows, targets, width=width)
    head = path(min(strength, strengths[0]))
    for step in strengths:
        if strengths[0] < step <= strength:
            head = path(step)
    return head


class Path:
    """Heads on the same rows for ascending strengths; each begins where the one before ended."""

    def __init__(self, rows: Floats, targets: Targets, *, width: int) -> None:
        self._rows, self._targets, self._width = rows, targets, width
        self._models: dict[int, LogisticRegression] = {}

    def __call__(self, strength: float) -> Head:
        """The head at its optimum for this strength."""
        if self._targets.task == "regression":
            return self._ridge(strength)
        if self._targets.task == "multi_label":
            columns = [self._sigmoid(k, strength) for k in range(self._targets.values.shape[1])]
            return Head(
                kernel=np.stack([column for column, _ in columns], axis=1),
                bias=np.array([bias for _, bias in columns]),
            )
        return self._softmax(strength)

    def _ridge(self, strength: float) -> Head:
        targets = self._targets
        model = Ridge(alpha=self._width / strength)
        model.fit(self._rows, targets.values, sample_weight=targets.weights)
        outputs = targets.values.shape[1]
        return Head(
            kernel=model.coef_.reshape(outputs, -1).T, bias=np.reshape(model.intercept_, outputs)
        )

    def _softmax(self, strength: float) -> Head:
        labels, outputs = self._targets.values.argmax(axis=1), self._targets.values.shape[1]
        kernel = np.zeros((self._rows.shape[1], outputs))
        bias = np.full(outputs, ABSENT)
        seen = np.unique(labels)
        if len(seen) == 1:
            bias[seen] = 0.0
            return Head(kernel=kernel, bias=bias)
        model = self._logistic(0, labels, strength)
        if len(seen) == 2:
            # scikit-learn gives one logit for two classes; half of it each is the same softmax.
            kernel[:, seen] = np.outer(model.coef_[0], (-0.5, 0.5))
            bias[seen] = model.intercept_[0] * np.array((-0.5, 0.5))
        else:
            kernel[:, seen], bias[seen] = model.coef_.T, model.intercept_
        return Head(kernel=kernel, bias=bias)

    def _sigmoid(self, column: int, strength: float) -> tuple[Floats, float]:
        hot = self._targets.values[:, column].astype(int)
        if len(np.unique(hot)) == 1:
            return np.zeros(self._rows.shape[1]), -ABSENT if hot[0] else ABSENT
        model = self._logistic(column, hot, strength)
        return model.coef_[0], float(model.intercept_[0])

    def _logistic(self, name: int, labels: Ints, strength: float) -> LogisticRegression:
        usual = LogisticRegression(tol=TOLERANCE, max_iter=ITERATIONS, warm_start=True)
        model = self._models.setdefault(name, usual).set_params(C=strength / self._width)
        with warnings.catch_warnings():
            # Of a weak penalty the last iterations change no answer; its loss is judged as it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(self._rows, labels, sample_weight=self._targets.weights)


def losses(logits: Floats, targets: Targets) -> Floats:
    """Each row's loss ``[n]``: softmax cross-entropy, mean of sigmoid ones, or squared error."""
    values = targets.values
    if targets.task == "regression":
        return np.asarray(((logits - values) ** 2).mean(axis=1))
    if targets.task == "single_label":
        return np.asarray(-(values * log_softmax(logits, axis=1)).sum(axis=1))
    return np.asarray((np.logaddexp(0.0, logits) - values * logits).mean(axis=1))


def mean_loss(logits: Floats, targets: Targets) -> float:
    """The weighted mean of :func:`losses`; plain where all weights are 0."""
    weights = targets.weights if targets.weights.any() else None
    return float(np.average(losses(logits, targets), weights=weights))
