"""Does A beat B on the same records? One sentence that never says more than its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from tltf.errors import ArgumentError, DataError
from tltf.evaluation.inputs import Floats, Ints
from tltf.evaluation.intervals import (
    LEVEL,
    Estimate,
    Interval,
    bootstrap,
    effective_n,
    n_units,
    padded_units,
    quantile,
    units_of,
    variance_of_mean,
    wilson,
)

HELPS, NO_DIFFERENCE, NEGATIVE = "helps", "no_difference", "negative"
N_RESAMPLES = 4000
ONE_RUN = "; this is about these two models: other seeds may differ by more"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A paired comparison.

    Args:
      kind: ``helps``, ``no_difference`` or ``negative``.
      difference: mean score of A minus that of B (accuracy as a share, not in points).
      low: lower end of its 95 % interval.
      high: upper end.
      n: records.
      seeds: runs of each that were compared.
      sentence: the finding in words.
      groups: groups that were taken for independent; None where each record is.
    """

    kind: str
    difference: float
    low: float
    high: float
    n: int
    seeds: int
    sentence: str
    groups: int | None = None

    def as_dict(self) -> dict[str, object]:
        """The ``verdict`` part of report.json; ``groups`` where there are some."""
        found = asdict(self)
        if self.groups is None:
            del found["groups"]
        return found


def compare(
    a_correct: ArrayLike,
    b_correct: ArrayLike,
    *,
    a_name: str = "transfer",
    b_name: str = "from scratch",
    unit: str = "points",
    groups: Sequence[object] | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Verdict:
    """Compares two predictors on the same records, over one or several seeds.

    The difference is ``mean over seeds and records of a - b``. With several seeds it is about the
    two *methods*: another seed and other records would have given another difference. Both are
    drawn, and crossed: ``d_sr = mu + alpha_s + beta_r + e_sr``. The interval is

        mu ± sqrt(t_{S-1}² V_seed + q² V_record)

    with ``V_seed = max(MS_seed, MS_rest) / (S n)``, ``V_record = max(0, MS_record - MS_rest) /
    (S n)`` from the mean squares of the two-way table, t for the S - 1 degrees of freedom of the
    seeds, and q from the percentiles of a bootstrap of the records: the modified large-sample
    interval for sums of variance components (Graybill & Wang 1980; Burdick & Graybill 1992, ch. 3).
    Three seeds have t = 4.3 and two 12.7: what so few say of luck is little, and more seeds narrow
    an interval faster than more records.
    In simulations (docs/evidence.md) equal methods get a verdict in at most 5 % of comparisons,
    at 2 to 5 seeds, with 0 to 7 points of luck, at 300 to 5,000 records.

    With *one* seed nothing is known of that luck. The interval is about the records only, and the
    sentence says that it is about these two models.

    * Two records are added, one for each side, so that 4 wins to 0 are not yet proof: the
      adjustment of Bonett & Price (2012) to paired proportions, which agrees with McNemar's exact
      test on when a difference is detectable. For other units than points the two records differ
      by plus and minus the root mean square of the differences.
    * With groups, records of one group are not independent: their sums are what varies.

    Args:
      a_correct: [n] or [seeds, n]: whether each record was right (bool or 0/1). For a regression
        the negative absolute error, with ``unit="MAE"``.
      b_correct: the same shape, the same records in the same order.
      a_name: what A is, as the subject of the sentence.
      b_name: what B is.
      unit: ``points`` shows shares times 100; any other text is shown after the plain number.
      groups: the group of each record, as in :func:`tltf.evaluation.intervals.units_of`.
      seed: of the bootstrap of records.
      n_resamples: at least 100.

    Raises:
      ArgumentError: shapes that differ or are not [n] or [seeds, n]; values other than 0 and 1
        with ``unit="points"``; another number of groups than of records; too few resamples.
      DataError: no records, NaN or infinity.

    Example:
      >>> compare([1] * 60 + [0] * 30, [1] * 59 + [0] * 31).sentence[:50]
      'no detectable difference between transfer and from'
    """
    a, b = _scores(a_correct, "a_correct", unit), _scores(b_correct, "b_correct", unit)
    if a.shape != b.shape:
        raise ArgumentError(
            f"a_correct of shape {list(a.shape)} and b_correct of shape {list(b.shape)},"
            " expected the same seeds and records",
            where="a_correct, b_correct",
        )
    if n_resamples < 100:
        raise ArgumentError(f"n_resamples={n_resamples}, expected at least 100")
    differences = a - b
    seeds, n = differences.shape
    units = units_of(groups, n=n)
    independent = n_units(units, n=n)
    low, high = _interval(differences, units, unit=unit, seed=seed, n_resamples=n_resamples)
    value = float(differences.mean())
    kind = HELPS if low > 0 else NEGATIVE if high < 0 else NO_DIFFERENCE
    shown = None if units is None else independent
    measured = _Measured(kind, value, low, high, n, seeds, shown)
    sentence = _sentence(measured, a_name=a_name, b_name=b_name, unit=unit)
    return Verdict(
        kind=kind, difference=value, low=low, high=high, n=n, seeds=seeds, sentence=sentence,
        groups=shown,
    )  # fmt: skip


def mean_accuracy(correct: ArrayLike, *, groups: Sequence[object] | None = None) -> Estimate:
    """Mean accuracy over seeds and records, with the interval for other seeds and other records.

    To the distances from the mean to the ends of Wilson's interval (on the effective n where
    there are groups) comes ``t_{S-1} s / sqrt(S)`` of the S accuracies, as the root of the sum of
    squares. With one seed it is Wilson's interval.

    Args:
      correct: [n] or [seeds, n]: whether each record was right.
      groups: as in :func:`compare`.

    Raises:
      ArgumentError, DataError: as :func:`compare`.
    """
    scores = _scores(correct, "correct", "points")
    seeds, n = scores.shape
    units = units_of(groups, n=n)
    value, of_record = float(scores.mean()), scores.mean(axis=0)
    worth = effective_n(of_record, units)
    low, high = wilson(value * worth, worth)
    luck = quantile(seeds) ** 2 * variance_of_mean(scores.mean(axis=1)) if seeds > 1 else 0.0
    low = max(0.0, value - math.sqrt((value - low) ** 2 + luck))
    high = min(1.0, value + math.sqrt((high - value) ** 2 + luck))
    shown = None if units is None else n_units(units, n=n)
    return Estimate(value=value, low=low, high=high, n=n, groups=shown)


def _interval(
    differences: Floats, units: Ints | None, *, unit: str, seed: int, n_resamples: int
) -> Interval:
    """The interval of the mean of differences [seeds, n]."""
    seeds = len(differences)
    of_record, of_seed = differences.mean(axis=0), differences.mean(axis=1)
    value = float(differences.mean())
    end = 1.0 if unit == "points" else math.sqrt(float(np.mean(np.square(differences))))
    low, high = _record_interval(
        np.concatenate([of_record, [end, -end]]),
        padded_units(units, pads=2),
        n_resamples=n_resamples,
        seed=seed,
    )
    below, above = max(0.0, value - low), max(0.0, high - value)
    if seeds > 1:
        rest = differences - of_seed[:, None] - of_record[None, :] + value
        # (S - 1) degrees of freedom are left in a column of the table, once its mean is taken out.
        luck = sum(variance_of_mean(row, units) for row in rest) / (seeds - 1) / seeds
        both = variance_of_mean(of_record, units)
        shared = math.sqrt(max(0.0, both - luck) / both) if both > 0 else 1.0
        part = quantile(seeds) * math.sqrt(max(variance_of_mean(of_seed), luck))
        below, above = math.hypot(part, shared * below), math.hypot(part, shared * above)
    least, most = (-1.0, 1.0) if unit == "points" else (-math.inf, math.inf)
    return max(least, value - below), min(most, value + above)


def _record_interval(
    padded: Floats, units: Ints | None, *, n_resamples: int, seed: int
) -> Interval:
    """Percentiles of the means of resampled units; a few groups widen them by Student's t."""
    independent = n_units(units, n=len(padded))

    def mean(weights: Floats) -> dict[str, Floats]:
        return {"mean": weights @ padded / weights.sum(axis=1)}

    means = bootstrap(
        mean, strata=np.zeros(independent, np.int64), units=units, n_resamples=n_resamples,
        seed=seed,
    )["mean"]  # fmt: skip
    low, high = (float(x) for x in np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]))
    if units is None:
        return low, high
    groups, centre = independent - 2, float(padded.mean())
    if groups < 2:
        return -math.inf, math.inf
    widen = quantile(groups) / quantile(10**9) * math.sqrt(groups / (groups - 1))
    return centre - widen * (centre - low), centre + widen * (high - centre)


@dataclass(frozen=True)
class _Measured:
    kind: str
    value: float
    low: float
    high: float
    n: int
    seeds: int
    groups: int | None


def _sentence(found: _Measured, *, a_name: str, b_name: str, unit: str) -> str:
    scale, digits = (100.0, 1) if unit == "points" else (1.0, 3)

    def show(x: float) -> str:
        text = f"{x * scale:.{digits}f}" if digits == 1 else f"{x:.{digits}g}"
        return text.removeprefix("-") if float(text) == 0 else text

    runs = f"{found.seeds} seed" + ("" if found.seeds == 1 else "s")
    low, high = show(found.low), show(found.high)
    if found.kind == NEGATIVE:
        low, high = show(-found.high), show(-found.low)
    groups = "" if found.groups is None else f" in {found.groups} groups"
    evidence = f"(95 % interval {low} to {high}, n={found.n}{groups}, {runs})"
    if found.seeds == 1:
        evidence += ONE_RUN
    size = f"{show(abs(found.value))} {unit}"
    if found.kind == HELPS:
        return f"{a_name} helps by {size} {evidence}"
    if found.kind == NEGATIVE:
        label = "negative transfer" if a_name == "transfer" else "negative effect"
        return f"{label}: {a_name} is {size} worse than {b_name} {evidence}"
    return (
        f"no detectable difference between {a_name} and {b_name}:"
        f" {show(found.value)} {unit} {evidence}"
    )


def _scores(values: ArrayLike, what: str, unit: str) -> Floats:
    """Finite scores float64 [seeds, n]."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"cannot be read as numbers: {error}", where=what) from error
    if array.ndim not in (1, 2):
        raise ArgumentError(f"shape {list(array.shape)}, expected [n] or [seeds, n]", where=what)
    if array.size == 0:
        raise DataError("there are no records to compare", where=what)
    if not np.isfinite(array).all():
        raise DataError("NaN or infinity among the scores", where=what)
    if unit == "points" and not np.isin(array, (0.0, 1.0)).all():
        raise ArgumentError(
            "scores other than 0 and 1, expected whether each record is right",
            where=what,
            next_action="pass predicted == targets, or name the unit, for example unit='MAE'",
        )
    return np.atleast_2d(array)
