"""Every metric of a report with its 95 % interval, by the rules of `intervals.py`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from tltf.evaluation.inputs import Floats, Ints
from tltf.evaluation.intervals import (
    Estimate,
    Interval,
    bootstrap,
    design_effect,
    mean_interval,
    n_units,
    padded_units,
    quantile,
    share_interval,
    wilson,
    wilson_of_variance,
)
from tltf.evaluation.metrics import (
    ECE_BINS,
    TOP_K,
    ece_bin,
    predicted_labels,
    top_k_hits,
)
from tltf.evaluation.resampling import metrics_of_weights, ranking_of_weights

RANKING_BUDGET = 100_000_000
"""n * C * resamples up to which AUROC and mAP are resampled: about a second on one core."""
FEWEST_RANKING_RESAMPLES = 200
MACRO = frozenset({"macro_f1", "macro_precision", "macro_recall", "balanced_accuracy"})
RANKINGS = frozenset({"auroc", "mAP"})
NORMAL = 1.959963984540054
"""The upper 2.5 % point of the normal distribution."""
AVERAGED = MACRO | RANKINGS | {"weighted_f1", "micro_f1"}

Pair = tuple[float | None, float | None]
Ends = dict[str, Pair]


def estimates(
    outputs: Floats,
    targets: Ints | Floats,
    values: dict[str, float],
    *,
    task: str,
    units: Ints | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Metric name -> value, interval, n and groups.

    Args:
      outputs: as :func:`tltf.evaluation.metrics.metric_values`.
      targets: as there.
      values: what it gave.
      task: as there.
      units: of :func:`tltf.evaluation.intervals.units_of`.
      n_resamples: of the bootstrap.
      seed: of the bootstrap.
    """
    n = len(outputs)
    if task == "regression":
        y = np.asarray(targets, dtype=np.float64)
        ends = _regression(outputs, y, values, units, n_resamples, seed)
    else:
        labels = np.asarray(targets, dtype=np.int64)
        means = _single_label if task == "single_label" else _multi_label
        ends = means(outputs, labels, units)
        ends |= _resampled(outputs, labels, values, task, units, n_resamples, seed)
    groups = None if units is None else n_units(units, n=n)
    return {
        name: Estimate(value, *_around(value, *ends[name]), n, groups)
        for name, value in values.items()
    }


def _around(value: float, low: float | None, high: float | None) -> Pair:
    """The ends, with the value between them."""
    if low is None or high is None:
        return None, None
    return min(low, value), max(high, value)


def _single_label(probabilities: Floats, targets: Ints, units: Ints | None) -> Ends:
    """Shares and means of records."""
    n, n_classes = probabilities.shape
    correct = predicted_labels(probabilities, task="single_label") == targets
    ends: Ends = {"accuracy": share_interval(correct.astype(np.float64), units)}
    for k in TOP_K:
        if n_classes > k:
            hits = top_k_hits(probabilities, targets, k=k).astype(np.float64)
            ends[f"top{k}_accuracy"] = share_interval(hits, units)
    best = np.partition(probabilities, n_classes - 2, axis=1)[:, :-3:-1]
    true = probabilities[np.arange(n), targets][:, None]
    # Three columns: what the truth cost, what being right would have, what the runner-up would.
    chances = np.concatenate([true, best], axis=1)
    squares = np.square(probabilities).sum(axis=1)[:, None]
    losses = {
        "nll": -np.log(np.clip(chances, np.finfo(np.float64).eps, 1.0)),
        "brier": squares - 2 * chances + 1,
    }
    for name, loss in losses.items():
        right, wrong = loss[:, 1:].mean(axis=0)
        low, high = mean_interval(loss[:, 0], ends=(right, wrong), units=units)
        ends[name] = (low if low is None else max(0.0, low), high)
    ends["ece"] = ece_interval(probabilities.max(axis=1), correct.astype(np.float64), units)
    return ends


def _multi_label(probabilities: Floats, targets: Ints, units: Ints | None) -> Ends:
    """Shares and means of records."""
    wrong = predicted_labels(probabilities, task="multi_label") != targets
    share = wrong.mean(axis=1)
    sure = np.clip(np.maximum(probabilities, 1 - probabilities), 0.0, 1 - 1e-16)
    all_right = -np.log(sure).mean()
    one_wrong = all_right + (np.log(sure) - np.log1p(-sure)).mean() / wrong.shape[1]
    true = np.where(targets == 1, probabilities, 1 - probabilities)
    loss = -np.log(np.clip(true, np.finfo(np.float64).eps, 1.0)).mean(axis=1)
    most = max(float(share.max()), 1 / wrong.shape[1])
    ends: Ends = {
        "subset_accuracy": share_interval((~wrong.any(axis=1)).astype(np.float64), units),
        "hamming_loss": mean_interval(share, ends=(0.0, most), units=units),
        "nll": mean_interval(
            loss, ends=(float(all_right), max(float(one_wrong), float(loss.max()))), units=units
        ),
    }
    return {name: _clipped(pair, 0.0, math.inf) for name, pair in ends.items()}


def _clipped(pair: Pair, least: float, most: float) -> Pair:
    low, high = pair
    return (None, None) if low is None or high is None else (max(least, low), min(most, high))


def ece_interval(confidences: Floats, correct: Floats, units: Ints | None = None) -> Interval:
    """An interval for the calibration error of :func:`tltf.evaluation.metrics.ece`.

    The estimate ``sum_b |g_b|`` of bin gaps g_b with standard errors s_b is biased upwards by
    ``sum_b E|g_b + s_b Z| - |g_b|``, most where a gap is zero. The lower end pays for that bias,
    each gap taken one standard error nearer to zero than it is seen; then both ends have z
    standard errors of the sum. The errors are those of the records and of two more, spread over
    all bins, one right and one wrong.
    """
    n, where = len(confidences), ece_bin(confidences)
    gaps = np.bincount(where, correct - confidences, minlength=ECE_BINS) / n
    pads = (np.square(1 - confidences) + np.square(confidences)) / n
    squares = np.bincount(where, np.square(correct - confidences) + pads, minlength=ECE_BINS)
    variances = np.maximum(squares / n - np.square(gaps), 0.0) / n
    total = float(variances.sum())
    z = quantile(n + 1)
    if units is not None:
        independent = n_units(units, n=n)
        z = quantile(independent)
        sums = np.zeros((independent, ECE_BINS))
        np.add.at(sums, (units, where), correct - confidences)
        scale = independent / max(1, independent - 1) / n**2
        sums -= sums.mean(axis=0)
        variances = np.maximum(variances, scale * np.square(sums).sum(axis=0))
        total = max(total, scale * float(np.square(sums @ np.sign(gaps)).sum()))
    spread = np.sqrt(variances)
    near = np.maximum(np.abs(gaps) - spread, 0.0)
    bias = folded_mean(near, spread) - near
    padded = np.abs(
        np.bincount(where, correct - confidences + (1 - 2 * confidences) / n, minlength=ECE_BINS)
    ).sum() / (n + 2)
    found, half = float(np.abs(gaps).sum()), z * math.sqrt(total)
    return max(0.0, found - float(bias.sum()) - half), min(1.0, max(found, padded) + half)


def folded_mean(mean: Floats, spread: Floats) -> Floats:
    """``E|mean + spread Z|`` for mean >= 0 and Z standard normal."""
    ratio = np.divide(mean, spread, out=np.full_like(mean, np.inf), where=spread > 0)
    return np.asarray(
        spread * math.sqrt(2 / math.pi) * np.exp(-np.square(ratio) / 2)
        + mean * (1 - 2 * norm.cdf(-ratio))
    )


def _resampled(
    outputs: Floats,
    targets: Ints,
    values: dict[str, float],
    task: str,
    units: Ints | None,
    n_resamples: int,
    seed: int,
) -> Ends:
    """Averages over classes and rankings, from a bootstrap of units and two records a class."""
    n, tallies = len(outputs), class_tallies(outputs, targets, task=task)
    x, y = _padded(outputs, targets, np.flatnonzero(tallies.seen), task)
    pads = len(x) - n
    drawn = padded_units(units, pads=pads)
    independent = n_units(units, n=n)
    draws: dict[str, Any] = {
        "units": drawn,
        "strata": np.zeros(independent + pads, dtype=np.int64),
        "seed": seed,
    }
    functions = {metrics_of_weights(x, y, task=task): n_resamples}
    if values.keys() & RANKINGS:
        affordable = max(FEWEST_RANKING_RESAMPLES, RANKING_BUDGET // max(1, x.size))
        functions[ranking_of_weights(x, y, task=task)] = min(n_resamples, affordable)
    right = (predicted_labels(outputs, task=task) == targets).astype(np.float64)
    right = right if right.ndim == 1 else right.mean(axis=1)
    deff = design_effect(right, units)
    ends: Ends = {}
    for metrics, times in functions.items():
        near = metrics(np.ones((1, len(x))))
        samples = bootstrap(metrics, n_resamples=times, **draws)
        for name in samples.keys() & values.keys() & AVERAGED:
            finite = samples[name][np.isfinite(samples[name])]
            around = functools.partial(
                wilson_of_variance,
                near=float(near[name][0]),
                variance=float(finite.var()) if len(finite) else 0.25,
                n_independent=independent,
                scale=1.0 if name in RANKINGS else n / len(x),
            )
            low, high = around(values[name])
            if name in MACRO:
                missing, other = macro_ends(
                    name, values[name], tallies, deff=deff, task=task, independent=independent
                )
                high = max(around(min(1.0, values[name] + missing))[1], other[1])
                low = min(low, other[0])
            ends[name] = low, high
    return ends


def _padded(outputs: Floats, targets: Ints, seen: Ints, task: str) -> tuple[Floats, Ints]:
    """The records and, for each class that was seen, one that is right and one that is wrong.

    The wrong one is taken for the next class. Both are surer than every record, so that in the
    ranking of a class the one stands at the top and the other at the bottom.
    """
    n_classes = outputs.shape[1]
    seen = seen if len(seen) else np.arange(n_classes)
    other = np.roll(seen, 1) if len(seen) > 1 else (seen + 1) % n_classes
    right, wrong = np.eye(n_classes)[seen], np.eye(n_classes)[other]
    if n_classes == 1:
        wrong = np.zeros_like(right)
    truth = seen if task == "single_label" else right.astype(np.int64)
    return np.concatenate([outputs, right, wrong]), np.concatenate([targets, truth, truth])


@dataclass(frozen=True, kw_only=True)
class Tallies:
    """Counts float64 [C] of each class: true, predicted, and both at once."""

    true: Floats
    predicted: Floats
    hits: Floats

    @property
    def seen(self) -> NDArray[np.bool_]:
        """The classes that macro averages run over."""
        return np.asarray(self.true + self.predicted > 0)


def class_tallies(outputs: Floats, targets: Ints, *, task: str) -> Tallies:
    """Counts of classes, or of labels."""
    predicted, n_classes = predicted_labels(outputs, task=task), outputs.shape[1]
    if task == "multi_label":
        both = (predicted * targets).sum(axis=0)
        counts = [targets.sum(axis=0), predicted.sum(axis=0), both]
    else:
        columns = (targets, predicted, targets[targets == predicted])
        counts = [np.bincount(column, minlength=n_classes) for column in columns]
    true, said, hits = (np.asarray(count, dtype=np.float64) for count in counts)
    return Tallies(true=true, predicted=said, hits=hits)


def macro_ends(
    name: str, value: float, tallies: Tallies, *, deff: float, task: str, independent: int
) -> tuple[float, Interval]:
    """What a macro average may lack, and its interval from those of the classes.

    ``value - sqrt(d' R d) / C`` with d_c the distance of class c to the lower end of its own
    Wilson interval, and alike above: the method of variance estimates recovery (Zou & Donner
    2008). R has ones on its diagonal; two classes of a single-label F1 share 1/(C-1) of their
    errors. A class that no record here belongs to, or that is never predicted, counts 0 in the
    average though its own value is unknown: it may be as good as the others, and better or worse.

    Args:
      name: one of MACRO.
      value: of the metric.
      tallies: of the classes.
      deff: design effect: n records are worth n / deff.
      task: single_label or multi_label.
      independent: units, for Student's quantile.
    """
    true, predicted, hits, seen = tallies.true, tallies.predicted, tallies.hits, tallies.seen
    n = {"macro_f1": true + predicted - hits, "macro_precision": predicted}.get(name, true)
    unknown = seen & (n == 0)
    if name == "macro_f1":
        unknown = seen & ((true == 0) | (predicted == 0))
    elif name == "balanced_accuracy":
        seen, unknown = true > 0, np.zeros_like(seen)
    # Row by class: the value, and both ends of its Wilson interval.
    rows = np.array([_ends(k / deff, m / deff) for k, m in zip(hits, n, strict=True)])
    rows = 2 * rows / (1 + rows) if name == "macro_f1" else rows
    own, low, high = rows.T
    known = seen & ~unknown
    usual = float(own[known].mean()) if known.any() else 0.5
    own = np.where(seen, own, value)
    n_classes = len(n)
    shared = 1 / (n_classes - 1) if name == "macro_f1" and task == "single_label" else 0.0
    student = quantile(independent) / NORMAL / n_classes
    below = student * _combined(own - low, shared)
    above = student * _combined(np.where(unknown, 1 - usual, high - own), shared)
    missing = float(unknown.sum()) * usual / max(1, int(seen.sum()))
    return missing, (max(0.0, value - below), min(1.0, value + missing + above))


def _ends(successes: float, n: float) -> tuple[float, float, float]:
    return (successes / n, *wilson(successes, n)) if n > 0 else (0.0, 0.0, 1.0)


def _combined(distances: Floats, correlation: float) -> float:
    """``sqrt(d' R d)`` for equal correlations."""
    squares = float(np.square(distances).sum())
    return math.sqrt((1 - correlation) * squares + correlation * float(distances.sum()) ** 2)


def _regression(
    predictions: Floats,
    targets: Floats,
    values: dict[str, float],
    units: Ints | None,
    n_resamples: int,
    seed: int,
) -> Ends:
    """Errors by their mean with one twice as large as any, R² by a bootstrap."""
    errors = np.abs(predictions - targets)
    squares = np.square(errors)
    low, high = mean_interval(squares, ends=(0.0, 2 * float(squares.max())), units=units)
    root = (None, None) if low is None or high is None else (max(0.0, low) ** 0.5, high**0.5)
    ends: Ends = {
        "mae": _clipped(
            mean_interval(errors, ends=(0.0, 2 * float(errors.max())), units=units), 0.0, math.inf
        ),
        "rmse": root,
    }
    if "r2" in values and n_units(units, n=len(errors)) > 1:
        ends["r2"] = _r2_interval(predictions, targets, units, n_resamples, seed)
    elif "r2" in values:
        ends["r2"] = None, None
    return ends


def _r2_interval(
    predictions: Floats, targets: Floats, units: Ints | None, n_resamples: int, seed: int
) -> Pair:
    """Student's t around R² of the records and the same two more, at the mean target."""
    middle = float(targets.mean())
    most = 2 * float(np.abs(predictions - targets).max())
    x = np.concatenate([predictions, [middle, middle + most]])
    y = np.concatenate([targets, [middle, middle]])
    metrics = metrics_of_weights(x, y, task="regression")
    independent = n_units(units, n=len(targets))
    samples = bootstrap(
        metrics,
        strata=np.zeros(independent + 2, np.int64),
        units=padded_units(units, pads=2),
        n_resamples=n_resamples,
        seed=seed,
    )["r2"]
    finite = samples[np.isfinite(samples)]
    if len(finite) < 100:
        return None, None
    near = float(metrics(np.ones((1, len(x))))["r2"][0])
    half = quantile(independent) * float(finite.std())
    return near - half, min(1.0, near + half)
