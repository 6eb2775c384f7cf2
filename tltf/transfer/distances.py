"""How far apart two domains are: MMD with a permutation test, and the proxy A-distance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tltf.errors import ArgumentError, DataError
from tltf.transfer import kernels
from tltf.transfer.kernels import Floats

MOST_ROWS = 1000
PERMUTATIONS = 999
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class MMDTest:
    """Squared maximum mean discrepancy, and how likely one as large is when nothing differs."""

    value: float
    p_value: float
    bandwidth: float
    n_source: int
    n_target: int


@dataclass(frozen=True, kw_only=True)
class ProxyADistance:
    """``2 (1 - 2 error)`` of a domain classifier: 0 cannot tell apart, 2 always can."""

    value: float
    low: float
    high: float
    error: float
    n: int


def mmd_test(
    source: ArrayLike,
    target: ArrayLike,
    *,
    bandwidth: float | None = None,
    biased: bool = False,
    permutations: int = PERMUTATIONS,
    most: int = MOST_ROWS,
    seed: int = 0,
) -> MMDTest:
    """MMD**2 with a Gaussian kernel, and its permutation p-value.

    Unbiased: ``sum_{i!=j} k(x_i, x_j) / (m (m-1)) + sum_{i!=j} k(y_i, y_j) / (n (n-1))
    - 2 sum_ij k(x_i, y_j) / (m n)``, which may be negative; biased: the same with ``i = j`` and
    ``m**2``, ``n**2``. The p-value is ``(1 + #{permuted >= observed}) / (1 + permutations)``.

    Gretton et al., *A Kernel Two-Sample Test* (JMLR 2012), Lemma 6, equation 3.

    Args:
      source, target: features ``[m, D]`` and ``[n, D]``, at least two rows each.
      bandwidth: sigma**2 of ``exp(-d**2 / (2 sigma**2))``; None for the median heuristic.
      biased: the V-statistic instead of the U-statistic.
      permutations: of the domain labels, at least 1.
      most: rows of each domain that are used, drawn by ``seed``; the cost is quadratic.
      seed: of the drawing and of the permutations.

    Raises:
      ArgumentError, DataError: shapes that do not belong together, too few rows, NaN.

    Example:
      >>> same = np.random.default_rng(0).normal(size=(80, 3))
      >>> mmd_test(same[:40], same[40:]).p_value > 0.05
      True
      >>> mmd_test(same[:40], same[40:] + 2).p_value < 0.01
      True
    """
    if permutations < 1 or most < 2:
        raise ArgumentError(
            f"permutations={permutations}, most={most}, expected at least 1 and 2", where="mmd_test"
        )
    s, t = kernels.pair(source, target)
    rng = np.random.default_rng([seed, 1])
    s, t = drawn(s, most, rng), drawn(t, most, rng)
    m, n = len(s), len(t)
    if min(m, n) < 2:
        raise DataError(f"{m} and {n} examples, expected at least 2 each", where="mmd_test")
    pooled = np.concatenate([s, t])
    squared = kernels.squared_distances(pooled, pooled)
    width = kernels.median_bandwidth(squared) if bandwidth is None else bandwidth
    gram = np.exp(-squared / (2.0 * width))
    labels = np.zeros((permutations + 1, m + n))
    labels[0, :m] = 1.0
    for row in labels[1:]:
        row[rng.permutation(m + n)[:m]] = 1.0
    values = _mmd_of_labels(gram, labels, m=m, n=n, biased=biased)
    # Equal up to rounding counts as equal: the observed labelling is one of the permutations.
    beyond = int((values[1:] >= values[0] - 1e-12).sum())
    return MMDTest(
        value=float(values[0]),
        p_value=(1 + beyond) / (1 + permutations),
        bandwidth=width,
        n_source=m,
        n_target=n,
    )


def _mmd_of_labels(gram: Floats, labels: Floats, *, m: int, n: int, biased: bool) -> Floats:
    """The statistic for each row of 0/1 labels ``[P, m + n]``, all by one matrix product."""
    diagonal = np.diag(gram)
    with_source = labels @ gram
    source = (with_source * labels).sum(axis=1)
    cross = with_source.sum(axis=1) - source
    target = gram.sum() - source - 2.0 * cross
    if biased:
        return source / m**2 + target / n**2 - 2.0 * cross / (m * n)
    own = labels @ diagonal
    source, target = source - own, target - (diagonal.sum() - own)
    return source / (m * (m - 1)) + target / (n * (n - 1)) - 2.0 * cross / (m * n)


def proxy_a_distance(
    source: ArrayLike, target: ArrayLike, *, folds: int = 5, most: int = MOST_ROWS, seed: int = 0
) -> ProxyADistance:
    """``2 (1 - 2 error)``, error of a held-out linear domain classifier, in [0, 2].

    Ben-David et al., *Analysis of Representations for Domain Adaptation* (NIPS 2006), section 4.
    The error is balanced over the two domains and cross-validated; above one half it counts as
    one half. The interval is Wilson's for that error.

    Args:
      source, target: features ``[m, D]`` and ``[n, D]``, at least ``folds`` rows each.
      folds: of the cross-validation, at least 2.
      most: rows of each domain that are used, drawn by ``seed``.
      seed: of the drawing and of the folds.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(80, 3))
      >>> proxy_a_distance(x[:40], x[40:] + 9).value
      2.0
    """
    if folds < 2:
        raise ArgumentError(f"folds={folds}, expected at least 2", where="proxy_a_distance")
    s, t = kernels.pair(source, target)
    rng = np.random.default_rng([seed, 2])
    s, t = drawn(s, most, rng), drawn(t, most, rng)
    if min(len(s), len(t)) < folds:
        raise DataError(
            f"{len(s)} and {len(t)} examples, expected at least {folds} each",
            where="proxy_a_distance",
        )
    x, domain = np.concatenate([s, t]), np.repeat([0, 1], [len(s), len(t)])
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced")
    )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    wrong = cross_val_predict(model, x, domain, cv=splitter) != domain
    error = float((wrong[domain == 0].mean() + wrong[domain == 1].mean()) / 2.0)
    n = len(x)
    wilson = stats.binomtest(round(error * n), n).proportion_ci(method="wilson")
    low, high = (2.0 * (1.0 - 2.0 * min(e, 0.5)) for e in (wilson.high, wilson.low))
    value = 2.0 * (1.0 - 2.0 * min(error, 0.5))
    return ProxyADistance(value=value, low=min(low, value), high=max(high, value), error=error, n=n)


def distance_report(source: ArrayLike, target: ArrayLike, *, seed: int = 0) -> dict[str, Any]:
    """Both distances and a sentence, ready for JSON: what `adapt` and `compare --other` show.

    Returns:
      ``{"mmd": fields of MMDTest, "proxy_a_distance": fields of ProxyADistance, "sentence"}``.
    """
    mmd = mmd_test(source, target, seed=seed)
    proxy = proxy_a_distance(source, target, seed=seed)
    differ = "differ" if mmd.p_value < SIGNIFICANT else "cannot be told apart"
    sentence = (
        f"source and target {differ}: MMD^2 {mmd.value:.4g} (p = {mmd.p_value:.3g},"
        f" n={mmd.n_source} and {mmd.n_target}), proxy A-distance {proxy.value:.2f} of 2"
        f" (95 % interval {proxy.low:.2f} to {proxy.high:.2f})"
    )
    return {
        "mmd": dataclasses.asdict(mmd),
        "proxy_a_distance": dataclasses.asdict(proxy),
        "sentence": sentence,
    }


def drawn(values: Floats, most: int, rng: np.random.Generator) -> Floats:
    """At most ``most`` rows, in their order."""
    if len(values) <= most:
        return values
    return values[np.sort(rng.choice(len(values), most, replace=False))]
