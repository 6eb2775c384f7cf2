"""How good a model is on the target, judged without a single target label."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import RidgeClassifier

from tltf.transfer import kernels, shallow
from tltf.transfer.kernels import Floats
from tltf.transfer.shallow import Labels


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """Four stand-ins for the target error; only the last two look at the target's predictions.

    ``source_risk``: log-loss on held-out source examples. ``weighted_risk``: the same, each
    example by its density ratio (Sugiyama et al., *Covariate Shift Adaptation by Importance
    Weighted Cross Validation*, JMLR 2007). ``entropy``: mean entropy of the target's predictions.
    ``density``: soft neighbourhood density, larger is better (Saito et al., *Tune it the Right
    Way*, ICCV 2021).
    """

    source_risk: float
    weighted_risk: float
    entropy: float
    density: float

    def as_dict(self) -> dict[str, float]:
        """For report.json."""
        return dataclasses.asdict(self)


def criteria(
    source: ArrayLike, labels: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None
) -> Criteria:
    """All four from class probabilities.

    Args:
      source: probabilities of held-out source examples ``[n, C]``.
      labels: their class indices.
      target: probabilities of target examples ``[m, C]``.
      weights: density ratios of the source examples; None for 1 each.
    """
    p, q = kernels.pair(source, target)
    y: Labels = shallow.checked_labels(labels, len(p))
    losses = -np.log(np.maximum(p[np.arange(len(p)), y], 1e-12))
    w = np.ones(len(p)) if weights is None else np.asarray(weights, np.float64)
    return Criteria(
        source_risk=float(losses.mean()),
        weighted_risk=float((w * losses).sum() / max(float(w.sum()), 1e-12)),
        entropy=mean_entropy(q),
        density=soft_neighbourhood_density(q),
    )


def reverse_accuracy(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    answers: ArrayLike,
    *,
    ridge: float = 1.0,
) -> float:
    """How well a head that learns only from answers on the target does on the source.

    ``mean_i [h(x_i) = y_i]`` over the source, h a linear head fitted to the target examples and the
    answers in the place of their labels: wrong answers teach it wrongly, and the source has the
    truth. Larger is better. Zhong et al., *Cross Validation Framework to Choose Amongst
    Models and Datasets for Transfer Learning* (ECML 2010); Ganin et al. (JMLR 2016) choose by a
    relative of it.

    Args:
      source, target: features ``[n, D]`` and ``[m, D]``; each is standardised by itself.
      labels: class indices of the source ``[n]``.
      answers: class indices that a method gave to the target ``[m]``.
      ridge: weight of the head's squared norm in its least squares, for each feature; > 0.

    Raises:
      DataError: labels or answers that are no class indices, or as many as there are examples.

    Example::

      reverse_accuracy(x, y, x_target, model.predict(x_target).argmax(axis=1))
    """
    s, t = kernels.pair(source, target)
    y, said = shallow.checked_labels(labels, len(s)), shallow.checked_labels(answers, len(t))
    if len(np.unique(said)) == 1:
        return float((y == said[0]).mean())
    head = RidgeClassifier(alpha=ridge * t.shape[1]).fit(shallow.standardized(t), said)
    return float((head.predict(shallow.standardized(s)) == y).mean())


def mean_entropy(probabilities: Floats) -> float:
    """``-mean_i sum_c p_ic log p_ic``."""
    return float(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1).mean())


def soft_neighbourhood_density(probabilities: Floats, *, temperature: float = 0.05) -> float:
    """Mean entropy of the neighbourhoods: rows of ``softmax_j(f_i . f_j / temperature)``, j != i.

    f are predictions of unit length. Dense neighbourhoods, in which many examples get the same
    answer, have a large entropy. Saito et al. (ICCV 2021), equations 1 and 2.
    """
    f = shallow.unit_rows(probabilities)
    if len(f) < 2:
        return 0.0
    similarity = f @ f.T / temperature
    np.fill_diagonal(similarity, -np.inf)
    p = np.exp(similarity - similarity.max(axis=1, keepdims=True))
    return mean_entropy(p / p.sum(axis=1, keepdims=True))
