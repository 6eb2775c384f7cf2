"""Boosting over two domains: TrAdaBoost for classes, TrAdaBoost.R2 for numbers.

For much source data and a little *labelled* target data, on stored features, with any
scikit-learn estimator that takes ``sample_weight``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression, Ridge

from tltf.errors import ArgumentError
from tltf.transfer import kernels
from tltf.transfer.kernels import Floats
from tltf.transfer.shallow import Labels, checked_labels

Make = Callable[[], Any]


class TrAdaBoost:
    """Source examples that disagree with the target lose weight, target examples gain it.

    ``source w *= beta**|h - c|`` with ``beta = 1 / (1 + sqrt(2 ln n / N))`` and ``target w *=
    beta_t**-|h - c|`` with ``beta_t = e_t / (1 - e_t)``, e_t the weighted error on the target; the
    answer is the vote of the rounds ``ceil(N / 2)`` to N, counted from one, with weights
    ``log(1 / beta_t)``. Dai et al., *Boosting for Transfer Learning* (ICML 2007), figure 1.

    Args:
      make: a fresh estimator with ``fit(x, y, sample_weight=)`` and ``predict``.
      rounds: N, at least 1.

    Example::

      model = TrAdaBoost().fit(source, labels, target, few_labels)
      model.predict(more_target)
    """

    def __init__(self, make: Make | None = None, *, rounds: int = 20) -> None:
        _at_least_one(rounds)
        self.make = make or (lambda: LogisticRegression(C=1.0, max_iter=500))
        self.rounds = rounds
        self.models: list[Any] = []
        self.betas: list[float] = []
        self.weights: Floats = np.empty(0)

    def fit(
        self, source: ArrayLike, labels: ArrayLike, target: ArrayLike, target_labels: ArrayLike
    ) -> TrAdaBoost:
        """Trains on both; ``weights`` are then the final ones, source first, mean 1."""
        s, t = kernels.pair(source, target)
        y_s, y_t = checked_labels(labels, len(s)), checked_labels(target_labels, len(t))
        self.classes = np.unique(np.concatenate([y_s, y_t]))
        x, y, n = np.concatenate([s, t]), np.concatenate([y_s, y_t]), len(s)
        beta = 1.0 / (1.0 + np.sqrt(2.0 * np.log(max(n, 2)) / self.rounds))
        w = np.ones(len(x))
        self.models, self.betas = [], []
        for _ in range(self.rounds):
            model = self.make().fit(x, y, sample_weight=w / w.mean())
            wrong = (model.predict(x) != y).astype(float)
            error = float((w[n:] * wrong[n:]).sum() / w[n:].sum())
            # At one half or more the vote would turn round; at zero its weight be infinite.
            error = min(max(error, 1e-3), 0.499)
            self.models.append(model)
            self.betas.append(error / (1.0 - error))
            w[:n] *= beta ** wrong[:n]
            w[n:] *= self.betas[-1] ** -wrong[n:]
        self.weights = w / w.mean()
        return self

    def predict(self, x: ArrayLike) -> Labels:
        """Class indices ``[n]`` by the vote of the later rounds."""
        rows = kernels.matrix(x, what="x")
        votes = np.zeros((len(rows), len(self.classes)))
        for i in _voting(self.rounds):
            model, beta = self.models[i], self.betas[i]
            votes += np.log(1.0 / beta) * (model.predict(rows)[:, None] == self.classes)
        return self.classes[votes.argmax(axis=1)]


class TrAdaBoostR2:
    """TrAdaBoost for numbers, with the errors of AdaBoost.R2.

    ``e_i = |y_i - h(x_i)| / max_j |y_j - h(x_j)|``; the source is weighed by ``beta**e_i``, the
    target by ``beta_t**-e_i``; the answer is the weighted median of the rounds ``ceil(N / 2)``
    to N. Pardoe & Stone, *Boosting for Regression Transfer* (ICML 2010), algorithm 2.

    Args:
      make: a fresh estimator with ``fit(x, y, sample_weight=)`` and ``predict``.
      rounds: N, at least 1.
    """

    def __init__(self, make: Make | None = None, *, rounds: int = 20) -> None:
        _at_least_one(rounds)
        self.make, self.rounds = make or (lambda: Ridge(alpha=1.0)), rounds
        self.models: list[Any] = []
        self.betas: list[float] = []
        self.weights: Floats = np.empty(0)

    def fit(
        self, source: ArrayLike, values: ArrayLike, target: ArrayLike, target_values: ArrayLike
    ) -> TrAdaBoostR2:
        """Trains on both domains."""
        s, t = kernels.pair(source, target)
        y = np.concatenate([np.asarray(values, float), np.asarray(target_values, float)])
        x, n = np.concatenate([s, t]), len(s)
        beta = 1.0 / (1.0 + np.sqrt(2.0 * np.log(max(n, 2)) / self.rounds))
        w = np.ones(len(x))
        self.models, self.betas = [], []
        for _ in range(self.rounds):
            model = self.make().fit(x, y, sample_weight=w / w.mean())
            gap = np.abs(model.predict(x) - y)
            e = gap / max(float(gap.max()), 1e-12)
            error = min(max(float((w[n:] * e[n:]).sum() / w[n:].sum()), 1e-3), 0.499)
            self.models.append(model)
            self.betas.append(error / (1.0 - error))
            w[:n] *= beta ** e[:n]
            w[n:] *= self.betas[-1] ** -e[n:]
        self.weights = w / w.mean()
        return self

    def predict(self, x: ArrayLike) -> Floats:
        """Numbers ``[n]``: the weighted median of the later rounds."""
        rows = kernels.matrix(x, what="x")
        late = _voting(self.rounds)
        answers = np.stack([self.models[i].predict(rows) for i in late], axis=1)
        votes = np.log(1.0 / np.array([self.betas[i] for i in late]))
        order = np.argsort(answers, axis=1)
        shares = np.cumsum(votes[order], axis=1)
        first = (shares >= 0.5 * votes.sum()).argmax(axis=1)
        rows_index = np.arange(len(rows))
        return answers[rows_index, order[rows_index, first]]


def _voting(rounds: int) -> range:
    """The rounds that vote, counted from zero: ``ceil(N / 2)`` to N where the first is one."""
    return range((rounds + 1) // 2 - 1, rounds)


def _at_least_one(rounds: int) -> None:
    if rounds < 1:
        raise ArgumentError(f"rounds={rounds}, expected at least 1", where="TrAdaBoost")
