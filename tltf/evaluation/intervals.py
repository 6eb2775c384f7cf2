"""95 % intervals: a stratified bootstrap, and Wilson's where the bootstrap is not to be trusted.

Which interval a metric gets (:func:`interval_for`):

* a share of records (accuracy, top-k, subset accuracy) with n <= 1000: Wilson;
* any metric in [0, 1] whose resamples are all the same (all right, all wrong): Wilson with an
  effective n, since a bootstrap of identical records would claim certainty;
* ``ece``: the reflected ("basic") bootstrap interval, since the estimate is biased upwards and
  its resamples are biased once more, which percentiles would count twice;
* everything else: percentiles of the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from tltf.errors import ArgumentError
from tltf.evaluation.inputs import Floats, Ints

LEVEL = 0.95
SMALL_N = 1000
SMALLEST_STRATUM = 5
CHUNK_ELEMENTS = 2_000_000
"""Weights held at a time: 16 MB in float64, whatever n and the number of resamples are."""

RECORD_SHARES = frozenset({"accuracy", "subset_accuracy", "top3_accuracy", "top5_accuracy"})
UNBOUNDED = frozenset({"nll", "brier", "mae", "rmse", "r2"})

Interval = tuple[float, float]
Resampled = dict[str, Floats]
MetricsOfWeights = Callable[[Floats], Resampled]
"""Weights float64 [r, n] (how often each record was drawn) -> metric name -> values [r]."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of records behind it.

    ``low`` and ``high`` are None when one record is all there is.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """``{"value", "low", "high", "n"}``, the shape of report.json."""
        return asdict(self)


def wilson(successes: float, n: float, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927), inside [0, 1].

    With ``p = successes / n`` and z the normal quantile it solves ``|p - q| = z sqrt(q(1-q)/n)``
    for q: ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)``.

    Args:
      successes: 0..n; fractions are allowed for an effective n.
      n: > 0.
      level: in (0, 1).

    Raises:
      ArgumentError: n <= 0, or successes outside [0, n].

    Example:
      >>> low, high = wilson(81, 90)
      >>> f"{low:.3f} {high:.3f}"
      '0.821 0.946'
    """
    if not (n > 0 and 0 <= successes <= n and 0 < level < 1):
        raise ArgumentError(
            f"wilson({successes:g}, {n:g}, level={level:g}), expected 0 <= successes <= n, n > 0"
            " and a level in (0, 1)",
            where="successes, n, level",
        )
    z = float(norm.ppf(0.5 + level / 2))
    p, shrink = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def strata_of(targets: Ints | Floats, *, task: str) -> Ints:
    """The stratum of each record, int64 [n]: its true class; classes under 5 records share one.

    A stratum of n_k records understates the variance by (n_k - 1) / n_k, a single record has
    none at all: the rare classes are therefore drawn together. Multi-label and regression
    records form one stratum.
    """
    if task != "single_label":
        return np.zeros(len(targets), dtype=np.int64)
    labels = np.asarray(targets, dtype=np.int64)
    rare = np.bincount(labels)[labels] < SMALLEST_STRATUM
    return np.where(rare, labels.max() + 1, labels)


def resample_weights(strata: Ints, *, n_resamples: int, seed: int) -> Iterator[Floats]:
    """Chunks float64 [r, n] of how often each record is drawn; each stratum keeps its size.

    Args:
      strata: int64 [n].
      n_resamples: rows over all chunks, >= 1.
      seed: of a NumPy generator; the chunks depend on nothing else.
    """
    n = len(strata)
    rng = np.random.default_rng(seed)
    order = np.argsort(strata, kind="stable")
    _, starts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    rows = max(1, CHUNK_ELEMENTS // n)
    for begin in range(0, n_resamples, rows):
        r = min(rows, n_resamples - begin)
        # Position j (in stratum order) draws uniformly from its own stratum.
        drawn = order[start + (rng.random((r, n)) * size).astype(np.int64)]
        drawn += np.arange(r)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n).astype(np.float64)


def bootstrap(
    metrics: MetricsOfWeights, *, strata: Ints, n_resamples: int = 2000, seed: int = 0
) -> Resampled:
    """Metric name -> its values on the resamples, float64 [n_resamples].

    Raises:
      ArgumentError: fewer than 100 resamples, too few for a 2.5 % percentile.
    """
    if n_resamples < 100:
        raise ArgumentError(
            f"n_resamples={n_resamples}, expected at least 100", where="n_resamples"
        )
    chunks = [metrics(w) for w in resample_weights(strata, n_resamples=n_resamples, seed=seed)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def interval_for(
    name: str, value: float, samples: NDArray[np.float64], *, n: int, effective_n: float
) -> Estimate:
    """The 95 % interval of one metric, by the rules at the top of this file.

    Args:
      name: of the metric; decides the rule.
      value: on the records themselves.
      samples: on the resamples, float64 [R]; NaN where a resample leaves it undefined.
      n: records.
      effective_n: records that a macro average is worth, see :func:`macro_effective_n`.
    """
    if name in RECORD_SHARES and n <= SMALL_N:
        return Estimate(value, *wilson(value * n, n), n)
    samples = samples[np.isfinite(samples)]
    degenerate = len(samples) < 100 or np.ptp(samples) < 1e-12
    if degenerate and name not in UNBOUNDED:
        worth = n if name in RECORD_SHARES else effective_n
        return Estimate(value, *wilson(min(max(value, 0.0), 1.0) * worth, worth), n)
    if n == 1 or len(samples) < 100:
        return Estimate(value, None, None, n)
    low, high = np.percentile(samples, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    if name == "ece":
        low, high = max(0.0, 2 * value - high), min(1.0, 2 * value - low)
    # A resample can be biased to one side of the value; the interval always holds the value.
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def macro_effective_n(support: Ints | Floats) -> float:
    """The n for which a share has the variance of an average over classes: ``C² / sum_c 1/n_c``.

    A mean of C independent shares has variance ``1/C² * sum_c p(1-p)/n_c``; setting it equal to
    ``p(1-p)/n`` gives n. Classes without records are left out.
    """
    counts = np.asarray(support, dtype=np.float64)
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / np.sum(1 / counts)) if len(counts) else 1.0
