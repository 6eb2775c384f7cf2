"""95 % intervals: Wilson's for shares, t for means, and the bootstrap for what is neither.

All of them take *units* for independent, not records: a unit is a record, or a group of records
(a patient, a speaker, a site) where the data have groups.

* a share of records (accuracy, top-k, subset accuracy): Wilson's interval, at every n; with groups
  on the effective n of :func:`effective_n`;
* a mean (log-loss, Brier, absolute error): Student's t around the mean of the records and two more,
  one at each end of what could have been seen (:func:`mean_interval`). A heavy tail that the
  records happen to have missed is what an interval without them forgets;
* every other metric in [0, 1]: Wilson's interval on the n for which a share has the variance of the
  metric in a bootstrap of units (:func:`wilson_of_variance`).

``experiments/benchmarks/coverage.py`` simulates how often each of them holds the truth; the table
is in docs/evidence.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from tltf.errors import ArgumentError
from tltf.evaluation.inputs import Floats, Ints

LEVEL = 0.95
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

    ``low`` and ``high`` are None when one record is all there is. ``groups`` is the number of
    groups that the interval takes for independent; None where each record is.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    groups: int | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """``{"value", "low", "high", "n"}``, the shape of report.json, and ``groups``."""
        found = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        return found if self.groups is None else {**found, "groups": self.groups}


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


def units_of(groups: Sequence[object] | None, *, n: int) -> Ints | None:
    """The unit of each record, int64 [n], numbered from 0; None where each record is its own.

    Args:
      groups: the group of each record; an empty name or None is no group: such a record is a unit
        of its own. None, or no two records of one group, for no groups at all.
      n: records.

    Raises:
      ArgumentError: another number of groups than of records.

    Example:
      >>> units_of(["anna", "ben", "anna", None], n=4).tolist()
      [0, 1, 0, 2]
    """
    if groups is None:
        return None
    if len(groups) != n:
        raise ArgumentError(
            f"{len(groups)} groups for {n} records, expected one for each", where="groups"
        )
    number: dict[object, int] = {}
    for i, group in enumerate(groups):
        number.setdefault(_key(group, i), len(number))
    if len(number) == n:
        return None
    return np.array([number[_key(group, i)] for i, group in enumerate(groups)], dtype=np.int64)


def _key(group: object, place: int) -> tuple[bool, object]:
    alone = group is None or group == ""
    return alone, place if alone else str(group)


def n_units(units: Ints | None, *, n: int) -> int:
    """How many independent units there are."""
    return n if units is None else int(units.max()) + 1


def quantile(n_independent: int) -> float:
    """The upper 2.5 % point of Student's t with ``n_independent - 1`` degrees of freedom."""
    return float(t.ppf(0.5 + LEVEL / 2, max(1, n_independent - 1)))


def variance_of_mean(values: Floats, units: Ints | None = None) -> float:
    """The estimated variance of a mean of records whose units are independent.

    ``(U-1)/U sum_u (m_u - mean)²``, m_u the mean without unit u: the jackknife over units, which
    for units of unequal size is less optimistic than sums of deviations (CV3 of MacKinnon, Nielsen
    & Webb 2023); s²/n without groups.
    """
    n, deviations = len(values), values - values.mean()
    if units is None:
        return float(np.square(deviations).sum() / max(1, n - 1) / n)
    sizes = np.bincount(units)
    if len(sizes) < 2:
        return 0.0
    # Without unit u the mean of the others moves by -sum_u / (n - n_u).
    moved = np.bincount(units, deviations) / (n - sizes)
    return float((len(sizes) - 1) / len(sizes) * np.square(moved).sum())


def padded_units(units: Ints | None, *, pads: int) -> Ints | None:
    """The units with those of ``pads`` more records, each of which is one."""
    if units is None:
        return None
    first = int(units.max()) + 1
    return np.concatenate([units, np.arange(first, first + pads)])


def effective_n(values: Floats, units: Ints | None) -> float:
    """The n of independent records whose share is known as well as this one.

    ``n / deff * (z / t_{U-1})²`` (Korn & Graubard 1998), where the design effect ``deff >= 1`` is
    the variance of the mean with groups over that without, and the quantiles pay for a variance
    that is itself estimated from U groups. Where all values are equal nothing is known of deff,
    and each group counts as one record.

    Args:
      values: [n] in [0, 1].
      units: of :func:`units_of`; None gives n.
    """
    n = len(values)
    if units is None:
        return float(n)
    independent = n_units(units, n=n)
    if independent < 2:
        return 1.0
    worth = n / design_effect(values, units)
    return max(1.0, worth * (float(norm.ppf(0.5 + LEVEL / 2)) / quantile(independent)) ** 2)


def design_effect(values: Floats, units: Ints | None) -> float:
    """The variance of a mean with groups over that without, at least 1 (Kish 1965)."""
    if units is None:
        return 1.0
    plain = variance_of_mean(values)
    if plain > 0:
        return max(1.0, variance_of_mean(values, units) / plain)
    return float(np.square(np.bincount(units)).sum()) / len(values)


def share_interval(values: Floats, units: Ints | None = None) -> Interval:
    """Wilson's interval for the mean of zeros and ones [n], on the effective n where units are."""
    worth = effective_n(values, units)
    return wilson(float(values.mean()) * worth, worth)


def mean_interval(
    values: Floats, *, ends: Interval, units: Ints | None = None
) -> tuple[float, float] | tuple[None, None]:
    """Student's t interval for a mean, with one more record at each end of what could be.

    ``m ± t_{U-1} s`` where m and s are the mean and its standard error over the n records and
    two more (Agresti & Coull 1998, and Bonett & Price 2012 for pairs, do so with shares). For a
    loss the ends are what being right, and what being wrong would have cost: of 45 records
    without an error a plain interval covers a mean log-loss in three cases of four.

    Args:
      values: [n].
      ends: values of the two further records.
      units: of :func:`units_of`.

    Returns:
      (None, None) when one unit is all there is.
    """
    independent = n_units(units, n=len(values))
    if independent < 2:
        return None, None
    # Where records come in groups each end has the weight of two that stand for themselves.
    copies = 1 if units is None else round(2 * design_effect(values, units))
    value, padded = float(values.mean()), np.concatenate([values, np.repeat(ends, copies)])
    if units is not None:
        units = np.concatenate([units, np.repeat([independent, independent + 1], copies)])
    half = quantile(independent) * math.sqrt(variance_of_mean(padded, units))
    centre = float(padded.mean())
    return min(value, centre - half), max(value, centre + half)


def wilson_of_variance(
    value: float, *, near: float, variance: float, n_independent: int, scale: float = 1.0
) -> Interval:
    """Wilson's interval for a metric in [0, 1] that is no share, from its variance.

    A share p of ``n* = p(1-p) / variance`` records is known as well as the metric is; Wilson's
    interval for that n stays in [0, 1], and is wide where all is right. As in :func:`effective_n`
    Student's quantile pays for a variance that is estimated.

    Args:
      value: of the metric.
      near: the metric of the records and the further ones with which ``variance`` was taken: at a
        value of exactly 1 the records alone have no variance.
      variance: of the metric.
      n_independent: units.
      scale: share of the records that are no further ones, in (0, 1].
    """
    p = min(max(near, 0.01), 0.99)
    worth = p * (1 - p) / max(variance, 1e-12) * scale
    worth *= (float(norm.ppf(0.5 + LEVEL / 2)) / quantile(n_independent)) ** 2
    return wilson(min(max(value, 0.0), 1.0) * worth, worth)


def resample_weights(
    strata: Ints, *, n_resamples: int, seed: int, width: int = 0
) -> Iterator[Floats]:
    """Chunks float64 [r, n] of how often each record is drawn; each stratum keeps its size.

    Args:
      strata: int64 [n]; all zero where only the number of all is fixed.
      n_resamples: rows over all chunks, >= 1.
      seed: of a NumPy generator; the chunks depend on nothing else.
      width: of the largest row that is made of a chunk; n if that is larger.
    """
    n = len(strata)
    rng = np.random.default_rng(seed)
    order = np.argsort(strata, kind="stable")
    _, starts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    rows = max(1, CHUNK_ELEMENTS // max(n, width))
    for begin in range(0, n_resamples, rows):
        r = min(rows, n_resamples - begin)
        # Position j (in stratum order) draws uniformly from its own stratum.
        drawn = order[start + (rng.random((r, n)) * size).astype(np.int64)]
        drawn += np.arange(r)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n).astype(np.float64)


def bootstrap(
    metrics: MetricsOfWeights,
    *,
    strata: Ints,
    units: Ints | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Resampled:
    """Metric name -> its values on the resamples, float64 [n_resamples].

    Units are drawn with replacement, each with all of its records (the cluster bootstrap of
    Davison & Hinkley 1997, section 3.8).

    Args:
      metrics: function of weights.
      strata: int64, one for each unit; as many of each are drawn as there are. All zero for a
        sample of which nothing but its size was fixed.
      units: int64 [n], the unit of each record; None where each is its own.
      n_resamples: at least 100.
      seed: of the draws.

    Raises:
      ArgumentError: fewer than 100 resamples, too few for a standard error.
    """
    if n_resamples < 100:
        raise ArgumentError(
            f"n_resamples={n_resamples}, expected at least 100", where="n_resamples"
        )
    width = 0 if units is None else len(units)
    draws = resample_weights(strata, n_resamples=n_resamples, seed=seed, width=width)
    chunks = [metrics(w if units is None else w[:, units]) for w in draws]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
