"""How well features separate the classes, without training a network: one number each.

Every score takes features ``[n, D]`` (or source probabilities ``[n, Z]``) and class indices
``[n]``, is computed in float64 and is larger for better transfer. None needs a GPU, and none
knows more than one pass over the data gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from sklearn.covariance import LedoitWolf

from tltf.errors import ArgumentError, DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOGME_TOLERANCE = 1e-10
LOGME_STEPS = 1000


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Log of maximum evidence of a linear model on the features, per example.

    For each class, with the one-against-rest target ``y`` in {0, 1} and features ``F`` ``[n, D]``,
    a Bayesian linear regression with prior precision ``alpha`` and noise precision ``beta`` has

        log p(y | F, alpha, beta) = n/2 log beta + D/2 log alpha - n/2 log 2 pi
                                    - beta/2 ||F m - y||^2 - alpha/2 m'm - 1/2 log|A|
        A = alpha I + beta F'F,  m = beta A^-1 F'y

    which is maximised over both precisions; LogME is its maximum divided by n, averaged over the
    classes. The fixed point (MacKay 1992) is iterated in the eigenbasis of ``F'F`` until the
    evidence is stationary, so the value does not depend on a number of steps.

    Args:
      features: finite numbers ``[n, D]``.
      labels: class indices ``[n]``, at least two different ones.

    Returns:
      Nats per example; larger is better. Comparable between backbones on the same examples only.

    Raises:
      ArgumentError: shapes that do not fit.
      DataError: one class, or features that are not finite.

    Example:
      >>> x = np.array([[0.0], [0.1], [1.0], [1.1]])
      >>> logme(x, [0, 0, 1, 1]) > logme(x, [0, 1, 0, 1])
      True

    Reference: You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer
    Learning", ICML 2021, equations 2 to 5.
    """
    x, y = _checked(features, labels)
    return logme_of(x)(y)


def logme_of(features: Floats) -> Callable[[Ints], float]:
    """:func:`logme` of these features for any labels; what does not depend on them is done once."""
    u, s, _ = np.linalg.svd(features, full_matrices=False)

    def score(labels: Ints) -> float:
        targets = (labels[:, None] == np.unique(labels)).astype(np.float64)
        evidences = [_evidence(u, s, target, d=features.shape[1]) for target in targets.T]
        return float(np.mean(evidences)) / len(features)

    return score


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """Between-class variance of the features over their total variance, with shrinkage.

        H_a = tr( S_a^-1 (1 - a) S_z ),   S_a = (1 - a) S + a (tr S / D) I

    S is the covariance of the features, S_z that of their class means (each example replaced
    by the mean of its class), and ``a`` the Ledoit-Wolf shrinkage, without which the inverse is
    meaningless when there are fewer examples than features.

    Args, Raises: as :func:`logme`.

    Returns:
      At least 0, at most ``min(D, C - 1)``; larger is better.

    Example:
      >>> x = np.array([[0.0], [0.1], [1.0], [1.1]])
      >>> h_score(x, [0, 0, 1, 1]) > h_score(x, [0, 1, 0, 1])
      True

    Reference: Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer
    Learning", ICIP 2019, definition 2; with shrinkage, Ibrahim et al., "Newer is not always
    better", 2021, equation 4.
    """
    x, y = _checked(features, labels)
    return h_score_of(x)(y)


def h_score_of(features: Floats) -> Callable[[Ints], float]:
    """:func:`h_score` of these features for any labels; what does not depend on them is done once.

    With S_a = L L' and features w = L^-1 z the trace is ``sum_c n_c / n |mean of w in c|^2``.
    """
    x = features - features.mean(axis=0)
    if not x.any():
        return lambda labels: 0.0
    fitted = LedoitWolf(assume_centered=True).fit(x)
    factor = np.linalg.cholesky(fitted.covariance_)
    white = solve_triangular(factor, x.T, lower=True).T

    def score(labels: Ints) -> float:
        classes = [white[labels == label] for label in np.unique(labels)]
        between = sum(len(part) * float(np.sum(part.mean(axis=0) ** 2)) for part in classes)
        return (1 - float(fitted.shrinkage_)) * between / len(x)

    return score


def nce(source_labels: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy of the labels given what a source classifier says.

        NCE = sum_{y, z} p(y, z) log( p(y, z) / p(z) )

    with the empirical joint distribution of target label y and predicted source label z.

    Args:
      source_labels: class of the source task that is most probable ``[n]``.
      labels: class indices ``[n]``.

    Returns:
      Nats, at most 0; 0 when the source label determines the target label.

    Raises:
      ArgumentError: shapes that do not fit.

    Example:
      >>> nce([7, 7, 9, 9], [0, 0, 1, 1])
      0.0

    Reference: Tran et al., "Transferability and Hardness of Supervised Classification Tasks",
    ICCV 2019, equation 2.
    """
    z, y = np.asarray(source_labels), np.asarray(labels)
    if z.ndim != 1 or z.shape != y.shape or not len(z):
        raise ArgumentError(
            f"source_labels of shape {list(z.shape)} and labels of shape {list(y.shape)},"
            " expected the same [n]",
            where="source_labels, labels",
        )
    _, z = np.unique(z, return_inverse=True)
    _, y = np.unique(y, return_inverse=True)
    joint = np.zeros((y.max() + 1, z.max() + 1))
    np.add.at(joint, (y, z), 1.0 / len(y))
    there = joint > 0
    given = np.broadcast_to(joint.sum(axis=0), joint.shape)
    return float(np.sum(joint[there] * np.log(joint[there] / given[there]))) + 0.0


def leep(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction: the target's likelihood through the source's labels.

        p(y, z) = 1/n sum_{i: y_i = y} theta(x_i)_z,    p(y | z) = p(y, z) / p(z)
        LEEP = 1/n sum_i log sum_z p(y_i | z) theta(x_i)_z

    Args:
      source_probabilities: ``theta``, rows of probabilities ``[n, Z]`` of a source classifier.
      labels: class indices ``[n]``.

    Returns:
      Nats per example, at most 0; larger is better.

    Raises:
      ArgumentError: shapes that do not fit, or rows that are no probabilities.
      DataError: one class, or numbers that are not finite.

    Example:
      >>> round(leep([[1.0, 0.0], [0.0, 1.0]], [0, 1]), 6)
      0.0

    Reference: Nguyen et al., "LEEP: A New Measure to Evaluate Transferability of Learned
    Representations", ICML 2020, equations 1 to 3.
    """
    theta, y = _checked(source_probabilities, labels)
    if (theta < 0).any() or not np.allclose(theta.sum(axis=1), 1.0, atol=1e-4):
        raise ArgumentError(
            "rows that are not probabilities, expected numbers >= 0 that sum to 1",
            where="source_probabilities",
            next_action="pass the softmax output of the source classifier",
        )
    classes, y = np.unique(y, return_inverse=True)
    joint = np.stack([theta[y == c].sum(axis=0) for c in range(len(classes))]) / len(y)
    # A source label that nothing was given has no part in the sum below either.
    given = joint / np.maximum(joint.sum(axis=0), np.finfo(np.float64).tiny)
    return float(np.mean(np.log(np.sum(given[y] * theta, axis=1)))) + 0.0


def _evidence(u: Floats, s: Floats, y: Floats, *, d: int) -> float:
    """Maximum over alpha and beta of the log evidence of one target, see :func:`logme`."""
    n, squares = len(y), s**2
    projected = u.T @ y
    outside = max(float(y @ y - projected @ projected), 0.0)  # of y, what no weights can explain
    alpha, beta, last = 1.0, 1.0, -math.inf
    for _ in range(LOGME_STEPS):
        shrunk = alpha + beta * squares
        weights = beta * s * projected / shrunk
        length = float(weights @ weights)
        residual = outside + float(np.sum((alpha * projected / shrunk) ** 2))
        value = 0.5 * (
            n * math.log(beta)
            + d * math.log(alpha)
            - n * math.log(2 * math.pi)
            - beta * residual
            - alpha * length
            - float(np.log(shrunk).sum())
            - (d - len(s)) * math.log(alpha)
        )
        if abs(value - last) <= LOGME_TOLERANCE * max(1.0, abs(value)):
            return value
        last = value
        explained = float(np.sum(beta * squares / shrunk))
        tiny = np.finfo(np.float64).eps
        alpha = min(max(explained / max(length, tiny), tiny), 1 / tiny)
        beta = min(max((n - explained) / max(residual, tiny), tiny), 1 / tiny)
    return last


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or not x.size:
        raise ArgumentError(
            f"features of shape {list(x.shape)} and labels of shape {list(y.shape)},"
            " expected [n, D] and [n]",
            where="features, labels",
        )
    if not np.isfinite(x).all():
        raise DataError("NaN or infinity among the features", where="features")
    if len(np.unique(y)) < 2:
        raise DataError("one class only, there is nothing to tell apart", where="labels")
    return x, y
