"""Alignment of stored features in closed form: CORAL, subspace alignment, TCA and JDA/BDA.

All take features ``[n, D]`` of the source and the target, usually standardised for each domain
by itself (:func:`standardized`), and return both in a common space. None looks at target labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from sklearn.neighbors import KNeighborsClassifier

from tltf.errors import ArgumentError, DataError
from tltf.transfer import kernels
from tltf.transfer.kernels import Floats

Labels = NDArray[np.int64]
Classify = Callable[[Floats, Labels, Floats], Labels]
"""``(source, source_labels, target) -> target_labels``."""


@dataclass(frozen=True)
class Aligned:
    """Source and target in a common space, float64 ``[n, k]``."""

    source: Floats
    target: Floats


def standardized(features: ArrayLike) -> Floats:
    """Each column to mean 0 and variance 1 over the rows given; constant columns to 0."""
    x = kernels.matrix(features, what="features")
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def nearest_neighbour(source: Floats, labels: Labels, target: Floats) -> Labels:
    """The label of the nearest source example, by Euclidean distance."""
    return KNeighborsClassifier(1).fit(source, labels).predict(target)


def coral_align(source: ArrayLike, target: ArrayLike, *, ridge: float = 1.0) -> Aligned:
    """Source features re-coloured with the covariance of the target.

    ``source' = source C_s**(-1/2) C_t**(1/2)``, where ``C = cov + ridge I``. Sun, Feng, Saenko,
    *Return of Frustratingly Easy Domain Adaptation* (AAAI 2016), algorithm 1.

    Args:
      source, target: features ``[n, D]``; they are not centred here.
      ridge: > 0, added to both covariances; 1 in the paper.

    Example::

      aligned = coral_align(source, target)
      model.fit(aligned.source, labels)
    """
    if ridge <= 0:
        raise ArgumentError(f"ridge={ridge:g}, expected more than 0", where="coral_align")
    s, t = kernels.pair(source, target)
    whiten = _power(_covariance(s) + ridge * np.eye(s.shape[1]), -0.5)
    color = _power(_covariance(t) + ridge * np.eye(s.shape[1]), 0.5)
    return Aligned(s @ whiten @ color, t)


def subspace_align(source: ArrayLike, target: ArrayLike, *, dimensions: int = 80) -> Aligned:
    """Both domains in their own principal subspaces, the source's turned into the target's.

    ``source' = source P_s P_s^T P_t`` and ``target' = target P_t``. Fernando et al.,
    *Unsupervised Visual Domain Adaptation Using Subspace Alignment* (ICCV 2013), algorithm 1.

    Args:
      source, target: features ``[n, D]``, standardised for each domain by itself.
      dimensions: of the subspaces, at least 1; the rank of the data is the most.
    """
    s, t = kernels.pair(source, target)
    rank = min(dimensions, s.shape[1], len(s), len(t))
    _at_least_one(rank, "dimensions")
    p_s, p_t = principal_axes(s)[:, :rank], principal_axes(t)[:, :rank]
    return Aligned(s @ p_s @ (p_s.T @ p_t), t @ p_t)


def tca(
    source: ArrayLike, target: ArrayLike, *, dimensions: int = 100, regularizer: float = 1.0
) -> Aligned:
    """Transfer component analysis, linear kernel: much variance and little MMD.

    ``K A`` with the first ``dimensions`` solutions of ``(K M K + lambda I) A = K H K A Phi``, K the
    inner products of rows of unit length. Pan et al., *Domain Adaptation via Transfer Component
    Analysis* (TNN 2011); in this form Long et al., *Transfer Feature Learning with Joint
    Distribution Adaptation* (ICCV 2013), equation 8 with ``M = M_0`` only.

    Args:
      source, target: features ``[n, D]``, standardised for each domain by itself.
      dimensions: of the common space, at least 1.
      regularizer: lambda, > 0.
    """
    s, t = kernels.pair(source, target)
    x = unit_rows(np.concatenate([s, t]))
    found = _components(x, marginal(len(s), len(t)), dimensions, regularizer)
    return Aligned(found[: len(s)], found[len(s) :])


@dataclass(frozen=True)
class Joint:
    """What :func:`jda` gives: the common space, and the pseudo-labels of the target."""

    aligned: Aligned
    labels: Labels


def jda(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    *,
    dimensions: int = 100,
    regularizer: float = 1.0,
    iterations: int = 10,
    balance: float | None = None,
    classify: Classify = nearest_neighbour,
) -> Joint:
    """Joint distribution adaptation: marginal and class-conditional MMD, by pseudo-labels.

    ``M = C M_0 + sum_c M_c`` (``balance=None``), or BDA's ``M = (1 - mu) C M_0 + mu sum_c M_c``,
    with the factor C, the number of classes, that the authors' programs have;
    target labels are what ``classify`` says in the space found before. Long et al., *Transfer
    Feature Learning with Joint Distribution Adaptation* (ICCV 2013), equation 8; Wang et
    al., *Balanced Distribution Adaptation for Transfer Learning* (ICDM 2017), equation 6.

    Args:
      source, target: features ``[n, D]``, standardised for each domain by itself.
      labels: class indices of the source ``[n]``.
      dimensions, regularizer: as :func:`tca`.
      iterations: of pseudo-labelling, at least 1; it stops when no label changes.
      balance: mu in [0, 1]; None for JDA.
      classify: how pseudo-labels are made, 1-NN in the papers.
    """
    s, t = kernels.pair(source, target)
    y = checked_labels(labels, len(s))
    if balance is not None and not 0 <= balance <= 1:
        raise ArgumentError(f"balance={balance:g}, expected a number in [0, 1]", where="jda")
    _at_least_one(iterations, "iterations")
    x = unit_rows(np.concatenate([s, t]))
    pseudo: Labels | None = None
    for _ in range(iterations):
        m = (int(y.max()) + 1) * marginal(len(s), len(t))
        if pseudo is not None:
            within = conditional(y, pseudo)
            m = m + within if balance is None else (1 - balance) * m + balance * within
        # Unit length again, as the authors do before the nearest neighbour.
        z = unit_rows(_components(x, m, dimensions, regularizer))
        aligned = Aligned(z[: len(s)], z[len(s) :])
        before, pseudo = pseudo, classify(aligned.source, y, aligned.target)
        if before is not None and np.array_equal(before, pseudo):
            break
    return Joint(aligned, np.asarray(pseudo, np.int64))


def marginal(n_source: int, n_target: int) -> Floats:
    """``M_0 = e e^T`` with e = 1/n_s on the source and -1/n_t on the target (JDA, equation 4)."""
    e = np.repeat([1.0 / n_source, -1.0 / n_target], [n_source, n_target])
    return np.outer(e, e)


def conditional(labels: Labels, pseudo: Labels) -> Floats:
    """``sum_c e_c e_c^T`` over the classes that both domains have (JDA, equation 6)."""
    n_s, n = len(labels), len(labels) + len(pseudo)
    total = np.zeros((n, n))
    for c in np.intersect1d(labels, pseudo):
        e = np.zeros(n)
        e[:n_s][labels == c] = 1.0 / (labels == c).sum()
        e[n_s:][pseudo == c] = -1.0 / (pseudo == c).sum()
        total += np.outer(e, e)
    return total


def unit_rows(x: Floats) -> Floats:
    """Each row to length 1; a row of zeros stays."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def principal_axes(x: Floats) -> Floats:
    """Orthonormal columns, by falling variance of the centred rows."""
    return np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2].T


def checked_labels(labels: ArrayLike, n: int) -> Labels:
    """Class indices int64 ``[n]`` from 0.

    Raises:
      DataError: not ``n`` whole numbers from 0.
    """
    y = np.asarray(labels)
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer) or (n and y.min() < 0):
        raise DataError(
            f"labels of shape {list(y.shape)} and type {y.dtype}, expected {n} class indices",
            where="labels",
        )
    return y.astype(np.int64)


def _components(x: Floats, m: Floats, dimensions: int, regularizer: float) -> Floats:
    """``K A`` of the first solutions of JDA's equation 8, M scaled to norm 1."""
    if regularizer <= 0:
        raise ArgumentError(f"regularizer={regularizer:g}, expected more than 0", where="tca")
    # With x = U S V^T the kernel is U S^2 U^T, and every solution lies in the span of U: the
    # problem of n rows becomes one of rank(x).
    u, sizes, _ = np.linalg.svd(x, full_matrices=False)
    kept = sizes > 1e-10 * sizes[0]
    gram = u[:, kept] * sizes[kept] ** 2
    r = gram.shape[1]
    k = min(dimensions, r, len(x) - 1)
    _at_least_one(k, "dimensions")
    m = m / np.linalg.norm(m)
    centred = gram - gram.mean(axis=0)
    # The smallest Phi of (a) A = (b) A Phi are the largest 1/Phi of (b) A = (a) A / Phi, and
    # (a) is positive definite, which the scatter (b) need not be.
    a = gram.T @ m @ gram + regularizer * np.eye(r)
    _, vectors = linalg.eigh(centred.T @ centred, a, subset_by_index=[r - k, r - 1])
    return gram @ vectors[:, ::-1]


def _covariance(x: Floats) -> Floats:
    return (
        np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])
        if len(x) > 1
        else (np.zeros((x.shape[1], x.shape[1])))
    )


def _power(symmetric: Floats, exponent: float) -> Floats:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T


def _at_least_one(value: int, name: str) -> None:
    if value < 1:
        raise ArgumentError(f"{name}={value}, expected at least 1", where=name)
