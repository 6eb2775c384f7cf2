"""MEDA: manifold features by the geodesic flow kernel, then a classifier in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from tltf.errors import ArgumentError
from tltf.transfer import kernels, shallow
from tltf.transfer.distances import proxy_a_distance
from tltf.transfer.kernels import Floats
from tltf.transfer.shallow import Aligned, Classify, Labels

FEWEST_OF_A_CLASS = 5


def geodesic_flow_kernel(source: ArrayLike, target: ArrayLike, *, dimensions: int = 20) -> Floats:
    """G ``[D, D]``: inner products over all subspaces on the way from source to target.

    ``x^T G y = integral_0^1 (Phi(u)^T x)^T (Phi(u)^T y) du`` along the geodesic between the two
    principal subspaces. Gong et al., *Geodesic Flow Kernel* (CVPR 2012), equations 4 to 6.

    Args:
      source, target: features ``[n, D]``.
      dimensions: of the subspaces, at most D / 2.
    """
    s, t = kernels.pair(source, target)
    d = min(dimensions, s.shape[1] // 2, len(s), len(t))
    if d < 1:
        raise ArgumentError(f"dimensions={d}, expected at least 1", where="geodesic_flow_kernel")
    p_s = shallow.principal_axes(s)[:, :d]
    full, _ = np.linalg.qr(p_s, mode="complete")
    rest = full[:, d:]
    p_t = shallow.principal_axes(t)[:, :d]
    # P_s^T P_t = U1 cos V^T and R_s^T P_t = -U2 sin V^T, one V for both.
    u1, cosine, vt = np.linalg.svd(p_s.T @ p_t)
    cosine = np.clip(cosine, 0.0, 1.0)
    angle = np.arccos(cosine)
    b = -(rest.T @ p_t) @ vt.T
    sine = np.sin(angle)
    u2 = b / np.where(sine > 1e-8, sine, np.inf)
    double = 2.0 * angle
    safe = np.where(double > 1e-8, double, 1.0)
    ratio = np.where(double > 1e-8, np.sin(double) / safe, 1.0)
    slope = np.where(double > 1e-8, (np.cos(double) - 1.0) / safe, 0.0)
    first, second = p_s @ u1, rest @ u2
    g = (first * (1.0 + ratio)) @ first.T + (second * (1.0 - ratio)) @ second.T
    cross = (first * slope) @ second.T
    return 0.5 * (g + cross + cross.T)


def manifold_features(source: ArrayLike, target: ArrayLike, *, dimensions: int = 20) -> Aligned:
    """``sqrt(G) x`` of both domains, so that inner products are those of the kernel."""
    s, t = kernels.pair(source, target)
    values, vectors = np.linalg.eigh(geodesic_flow_kernel(s, t, dimensions=dimensions))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return Aligned(s @ root, t @ root)


def balance_factor(source: Floats, labels: Labels, target: Floats, pseudo: Labels) -> float:
    """mu: share of the class-conditional distance in the whole, from proxy A-distances.

    ``mu = 1 - d_M / (d_M + sum_c d_c)``. Wang et al. (MM 2018), equation 8, with d_c the mean
    over classes that have at least five examples in both domains.
    """
    whole = proxy_a_distance(source, target).value
    by_class = [
        proxy_a_distance(source[labels == c], target[pseudo == c]).value
        for c in np.intersect1d(labels, pseudo)
        if min((labels == c).sum(), (pseudo == c).sum()) >= FEWEST_OF_A_CLASS
    ]
    if not by_class or whole + np.mean(by_class) == 0:
        return 0.5
    return float(np.mean(by_class) / (whole + np.mean(by_class)))


def meda(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    *,
    dimensions: int = 20,
    structure: float = 10.0,
    smoothness: float = 1.0,
    shrinkage: float = 0.1,
    neighbours: int = 10,
    iterations: int = 10,
    balance: float | None = None,
    classify: Classify = shallow.nearest_neighbour,
) -> Floats:
    """Class scores of the target ``[n, C]`` by manifold embedded distribution alignment.

    ``beta = ((A + lambda M + rho L) K + eta I)^-1 A Y`` on manifold features, where A marks the
    source, ``M = (1 - mu) M_0 + mu sum_c M_c`` and L is the normalised graph Laplacian; scores
    are ``K beta``. Wang et al., *Visual Domain Adaptation with Manifold Embedded Distribution
    Alignment* (MM 2018), equation 14.

    Args:
      source, target: features ``[n, D]``, standardised for each domain by itself.
      labels: class indices of the source.
      dimensions: of the subspaces of the geodesic flow kernel.
      structure: lambda, weight of the distribution alignment.
      smoothness: rho, weight of the Laplacian.
      shrinkage: eta, weight of the norm.
      neighbours: of the graph.
      iterations: of pseudo-labelling.
      balance: mu in [0, 1]; None estimates it by :func:`balance_factor` in each iteration.
      classify: the first pseudo-labels, 1-NN in the paper.
    """
    s, t = kernels.pair(source, target)
    y = shallow.checked_labels(labels, len(s))
    found = manifold_features(s, t, dimensions=dimensions)
    x = shallow.unit_rows(np.concatenate([found.source, found.target]))
    n_s, n = len(s), len(x)
    one_hot = np.zeros((n, int(y.max()) + 1))
    one_hot[np.arange(n_s), y] = 1.0
    pseudo = classify(x[:n_s], y, x[n_s:])
    # exp(-d^2 / (2 sigma^2)) with the mean length of the rows, which is 1, as sigma.
    gram = kernels.kernel(x, x, kind="gaussian", bandwidth=1.0)
    graph = smoothness * laplacian(x, neighbours=neighbours)
    marked = np.diag(np.repeat([1.0, 0.0], [n_s, n - n_s]))
    scores = np.zeros((n, one_hot.shape[1]))
    for _ in range(iterations):
        mu = balance_factor(x[:n_s], y, x[n_s:], pseudo) if balance is None else balance
        m = (1 - mu) * one_hot.shape[1] * shallow.marginal(n_s, n - n_s)
        m += mu * shallow.conditional(y, pseudo)
        m /= np.linalg.norm(m)
        left = (marked + structure * m + graph) @ gram + shrinkage * np.eye(n)
        scores = gram @ linalg.solve(left, marked @ one_hot, check_finite=False)
        before, pseudo = pseudo, scores[n_s:].argmax(axis=1)
        if np.array_equal(before, pseudo):
            break
    return scores[n_s:]


def laplacian(x: Floats, *, neighbours: int) -> Floats:
    """``I - D^-1/2 W D^-1/2`` of the cosine graph that joins each row to its nearest ones."""
    return np.eye(len(x)) - normalized_graph(x, neighbours=neighbours)


def normalized_graph(x: Floats, *, neighbours: int) -> Floats:
    """``D^-1/2 W D^-1/2``, W = cosine (0 where negative) if one is among the other's nearest."""
    unit = shallow.unit_rows(x)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    k = min(neighbours, len(x) - 1)
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k] if k else np.empty((len(x), 0), int)
    joined = np.zeros(cosine.shape, bool)
    np.put_along_axis(joined, nearest, True, axis=1)
    weight = np.where(joined | joined.T, np.maximum(cosine, 0.0), 0.0)
    degree = np.maximum(weight.sum(axis=1), 1e-12) ** -0.5
    return degree[:, None] * weight * degree[None, :]
