"""Weights of source examples that make the source look like the target: density ratios.

Each function takes features of both domains and returns the estimated ``p_target(x) /
p_source(x)`` at the source examples, float64 ``[n_source]`` with mean 1. They go into a ``weight``
column of a table, or as ``sample_weight`` into anyone's ``fit``.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tltf.errors import ArgumentError
from tltf.transfer import kernels
from tltf.transfer.distances import drawn
from tltf.transfer.kernels import Floats

FEWEST_EFFECTIVE = 0.1
MOST_CENTRES = 100


def domain_classifier_weights(
    source: ArrayLike, target: ArrayLike, *, strength: float = 1.0, clip: float = 50.0
) -> Floats:
    """``w(x) = n_s / n_t * P(target | x) / P(source | x)`` of a logistic domain classifier.

    Bickel, Brückner, Scheffer, *Discriminative Learning for Differing Training and Test
    Distributions* (ICML 2007), section 4.

    Args:
      source, target: features ``[n, D]``.
      strength: C of the logistic regression.
      clip: the largest weight before scaling to mean 1.
    """
    s, t = kernels.pair(source, target)
    domain = np.repeat([0, 1], [len(s), len(t)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    log_odds = model.fit(np.concatenate([s, t]), domain).decision_function(s)
    with np.errstate(over="ignore"):
        ratio = np.exp(log_odds) * len(s) / len(t)
    return _scaled(np.minimum(ratio, clip))


def kmm(
    source: ArrayLike,
    target: ArrayLike,
    *,
    bandwidth: float | None = None,
    bound: float = 50.0,
    epsilon: float | None = None,
) -> Floats:
    """Kernel mean matching: the weights whose kernel mean is nearest the target's.

    ``min_w w^T K w / 2 - kappa^T w`` with ``0 <= w <= bound``, ``|mean w - 1| <= epsilon`` and
    ``kappa_i = n_s / n_t sum_j k(s_i, t_j)``. Huang et al., *Correcting Sample Selection Bias by
    Unlabeled Data* (NIPS 2006), equation 12.

    Args:
      source, target: features ``[n, D]``.
      bandwidth: sigma**2 of the Gaussian kernel; None for the median heuristic.
      bound: B, the largest weight.
      epsilon: None for ``(sqrt(n_s) - 1) / sqrt(n_s)``, as in the paper.
    """
    s, t = kernels.pair(source, target)
    if bound <= 1:
        raise ArgumentError(f"bound={bound:g}, expected more than 1", where="kmm")
    n = len(s)
    width = _width(s, t, bandwidth)
    gram = kernels.kernel(s, s, kind="gaussian", bandwidth=width)
    kappa = kernels.kernel(s, t, kind="gaussian", bandwidth=width).sum(axis=1) * n / len(t)
    slack = (np.sqrt(n) - 1) / np.sqrt(n) if epsilon is None else epsilon
    w = _accelerated_projection(gram, kappa, bound=bound, low=n * (1 - slack), high=n * (1 + slack))
    return _scaled(w)


def kliep(
    source: ArrayLike,
    target: ArrayLike,
    *,
    bandwidth: float | None = None,
    centres: int = MOST_CENTRES,
    iterations: int = 2000,
    seed: int = 0,
) -> Floats:
    """KLIEP: ``w(x) = sum_l alpha_l k(x, c_l)``, least Kullback-Leibler divergence.

    Maximises ``mean_t log w(t)`` subject to ``mean_s w(s) = 1`` and ``alpha >= 0``. Sugiyama et
    al., *Direct Importance Estimation with Model Selection* (NIPS 2008), algorithm 1.

    Args:
      source, target: features ``[n, D]``.
      bandwidth: sigma**2; None for the best of several by likelihood on held-out target examples.
      centres: Gaussians, at target examples drawn by ``seed``.
      iterations: of the projected ascent.
      seed: of the drawing.
    """
    s, t = kernels.pair(source, target)
    rng = np.random.default_rng([seed, 3])
    middle = drawn(t, centres, rng)
    _check_width(bandwidth)
    if bandwidth is None:
        base, order = _width(s, t, None), rng.permutation(len(t))
        held, rest = t[order[: len(t) // 5]], t[order[len(t) // 5 :]]
        scores = {}
        for factor in (0.03, 0.1, 0.3, 1.0, 3.0):
            alpha = _kliep(s, rest, middle, factor * base, iterations // 4)
            w = kernels.kernel(held, middle, kind="gaussian", bandwidth=factor * base) @ alpha
            scores[factor] = float(np.log(np.maximum(w, 1e-12)).mean()) if len(held) else 0.0
        bandwidth = base * max(scores, key=scores.__getitem__)
    alpha = _kliep(s, t, middle, bandwidth, iterations)
    return _scaled(kernels.kernel(s, middle, kind="gaussian", bandwidth=bandwidth) @ alpha)


def ulsif(
    source: ArrayLike,
    target: ArrayLike,
    *,
    bandwidth: float | None = None,
    regularizer: float | None = None,
    centres: int = MOST_CENTRES,
    seed: int = 0,
) -> Floats:
    """uLSIF: the ratio with the least squared error, in closed form.

    ``alpha = max(0, (H + lambda I)^-1 h)`` with ``H = mean_s k(s, c) k(s, c)^T`` and ``h = mean_t
    k(t, c)``. Kanamori, Hido, Sugiyama, *A Least-squares Approach to Direct Importance Estimation*
    (JMLR 2009), equations 23 and 24.

    Args:
      source, target: features ``[n, D]``.
      bandwidth, regularizer: sigma**2 and lambda; None for the best of several by the same
        criterion on held-out examples.
      centres, seed: as :func:`kliep`.
    """
    s, t = kernels.pair(source, target)
    rng = np.random.default_rng([seed, 4])
    middle = drawn(t, centres, rng)
    _check_width(bandwidth)
    base = _width(s, t, None)
    widths = [f * base for f in (0.03, 0.1, 0.3, 1.0, 3.0)] if bandwidth is None else [bandwidth]
    strengths = (0.001, 0.01, 0.1, 1.0) if regularizer is None else (regularizer,)
    halves = [rng.permutation(len(x)) % 2 == 0 for x in (s, t)]
    scores = {}
    for width in widths if len(widths) * len(strengths) > 1 else []:
        k_s, k_t = (kernels.kernel(x, middle, kind="gaussian", bandwidth=width) for x in (s, t))
        for strength in strengths:
            alpha = _ulsif(k_s[halves[0]], k_t[halves[1]], strength)
            held_s, held_t = k_s[~halves[0]] @ alpha, k_t[~halves[1]] @ alpha
            scores[width, strength] = float((held_s**2).mean() / 2 - held_t.mean())
    chosen = min(scores, key=scores.__getitem__) if scores else (widths[0], strengths[0])
    k_s, k_t = (kernels.kernel(x, middle, kind="gaussian", bandwidth=chosen[0]) for x in (s, t))
    return _scaled(k_s @ _ulsif(k_s, k_t, chosen[1]))


def effective_sample_size(weights: ArrayLike) -> float:
    """``(sum w)**2 / sum w**2``: as many equally weighted examples are as certain (Kish 1965).

    Warns below a tenth of the examples: then a few of them decide everything.

    >>> effective_sample_size([1, 1, 1, 1])
    4.0
    """
    w = np.asarray(weights, np.float64)
    square = float((w**2).sum())
    size = float(w.sum()) ** 2 / square if square else 0.0
    if size < FEWEST_EFFECTIVE * len(w):
        warnings.warn(
            f"{size:.1f} of {len(w)} source examples carry the weight: the domains hardly overlap,"
            " and what is learned depends on few of them",
            RuntimeWarning,
            stacklevel=2,
        )
    return size


def _ulsif(k_s: Floats, k_t: Floats, strength: float) -> Floats:
    h = k_s.T @ k_s / len(k_s)
    alpha = np.linalg.solve(h + strength * np.eye(len(h)), k_t.mean(axis=0))
    return np.maximum(alpha, 0.0)


def _kliep(s: Floats, t: Floats, middle: Floats, width: float, iterations: int) -> Floats:
    k_t = kernels.kernel(t, middle, kind="gaussian", bandwidth=width)
    b = kernels.kernel(s, middle, kind="gaussian", bandwidth=width).mean(axis=0)
    b = np.maximum(b, 1e-300)
    # alpha_l b_l is a distribution over the centres, and multiplying by the gradient (EM)
    # climbs to the same concave optimum without a step size.
    share = np.full(len(b), 1.0 / len(b))
    ratios = k_t / b
    for _ in range(iterations):
        w = np.maximum(ratios @ share, 1e-300)
        new = share * (ratios / w[:, None]).mean(axis=0)
        done = np.abs(new - share).sum() < 1e-7
        share = new
        if done:
            break
    return share / b


def _accelerated_projection(
    gram: Floats, kappa: Floats, *, bound: float, low: float, high: float
) -> Floats:
    """``min w^T K w / 2 - kappa^T w`` over the box with a bounded sum, by accelerated gradients."""
    step = 1.0 / float(np.linalg.eigvalsh(gram)[-1])
    w = momentum = np.ones(len(kappa))
    t = 1.0
    for _ in range(3000):
        new = _projected(momentum - step * (gram @ momentum - kappa), bound, low, high)
        t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
        momentum = new + (t - 1) / t_new * (new - w)
        if np.abs(new - w).max() < 1e-7:
            return new
        w, t = new, t_new
    return w


def _projected(w: Floats, bound: float, low: float, high: float) -> Floats:
    """The nearest point of ``0 <= w <= bound`` with ``low <= sum w <= high``."""
    clipped = np.clip(w, 0.0, bound)
    total = clipped.sum()
    if low <= total <= high:
        return clipped
    wanted = low if total < low else high
    reach = float(np.abs(w).max()) + bound
    shift = optimize.brentq(lambda d: np.clip(w + d, 0.0, bound).sum() - wanted, -reach, reach)
    return np.clip(w + shift, 0.0, bound)


def _width(s: Floats, t: Floats, bandwidth: float | None) -> float:
    _check_width(bandwidth)
    if bandwidth is not None:
        return bandwidth
    rng = np.random.default_rng(0)
    pooled = np.concatenate([drawn(s, 500, rng), drawn(t, 500, rng)])
    return kernels.median_bandwidth(kernels.squared_distances(pooled, pooled))


def _check_width(bandwidth: float | None) -> None:
    if bandwidth is not None and bandwidth <= 0:
        raise ArgumentError(f"bandwidth={bandwidth:g}, expected more than 0", where="bandwidth")


def _scaled(w: Floats) -> Floats:
    mean = float(w.mean())
    return w / mean if mean > 0 else np.ones(len(w))
