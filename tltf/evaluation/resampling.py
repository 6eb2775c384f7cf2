"""The metrics of `metrics.py` as functions of record weights, for thousands of resamples at once.

A resample is a row of weights: how often each record was drawn. With all weights one, and with
any whole weights against repeated records, each value equals scikit-learn's (tests/evaluation).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from tltf.evaluation.inputs import Floats, Ints
from tltf.evaluation.intervals import MetricsOfWeights, Resampled
from tltf.evaluation.metrics import (
    ECE_BINS,
    TOP_K,
    binary_cross_entropy_terms,
    brier_terms,
    ece_bin,
    predicted_labels,
    top_k_hits,
)


def metrics_of_weights(outputs: Floats, targets: Ints | Floats, *, task: str) -> MetricsOfWeights:
    """A function from weights [r, n] to metric name -> values [r], the ranking metrics aside.

    Args: as :func:`tltf.evaluation.metrics.metric_values`.
    """
    if task == "single_label":
        return _single_label(outputs, np.asarray(targets, dtype=np.int64))
    if task == "multi_label":
        return _multi_label(outputs, np.asarray(targets, dtype=np.int64))
    return _regression(outputs, np.asarray(targets, dtype=np.float64))


def ranking_of_weights(outputs: Floats, targets: Ints, *, task: str) -> MetricsOfWeights:
    """``auroc`` (macro, one against rest) or for multi_label ``mAP``, as a function of weights.

    They sort the records once per class and cost r * n * C; the caller limits r.
    """
    name, of_class = ("mAP", _average_precision) if task == "multi_label" else ("auroc", _auroc)
    n_classes = outputs.shape[1]
    # Two classes are one ranking: the areas under both curves are equal.
    columns = [1] if name == "auroc" and n_classes == 2 else range(n_classes)
    positive = targets == 1 if task == "multi_label" else targets[:, None] == np.arange(n_classes)
    functions = [of_class(outputs[:, c], positive[:, c]) for c in columns if positive[:, c].any()]

    def metrics(weights: Floats) -> Resampled:
        total, count = np.zeros(len(weights)), np.zeros(len(weights))
        for function in functions:
            values = function(weights)
            there = np.isfinite(values)
            total[there] += values[there]
            count += there
        return {name: _ratio(total, count, empty=np.nan)}

    return metrics


def _single_label(probabilities: Floats, targets: Ints) -> MetricsOfWeights:
    n, n_classes = probabilities.shape
    predicted = predicted_labels(probabilities, task="single_label")
    confidence, correct = probabilities.max(axis=1), predicted == targets
    true_probability = probabilities[np.arange(n), targets]
    eps = np.finfo(np.float64).eps
    means = {
        "accuracy": correct.astype(np.float64),
        "nll": -np.log(np.clip(true_probability, eps, 1.0)),
        "brier": brier_terms(probabilities, targets),
    }
    for k in TOP_K:
        if n_classes > k:
            hits = top_k_hits(probabilities, targets, k=k)
            means[f"top{k}_accuracy"] = hits.astype(np.float64)
    # One non-zero entry per record: sums over a class cost n, not n * C.
    is_true, is_predicted = _indicator(targets, n_classes), _indicator(predicted, n_classes)
    is_hit = _indicator(targets, n_classes, correct.astype(np.float64))
    bin_gap = _indicator(ece_bin(confidence), ECE_BINS, correct - confidence)

    def metrics(weights: Floats) -> Resampled:
        values = _means(weights, means)
        values |= _class_averages(weights @ is_hit, weights @ is_true, weights @ is_predicted)
        values["ece"] = np.abs(weights @ bin_gap).sum(axis=1) / weights.sum(axis=1)
        return values

    return metrics


def _class_averages(hits: Floats, true: Floats, predicted: Floats) -> Resampled:
    """Macro and weighted averages from counts [r, C]."""
    seen, occurs = (true + predicted) > 0, true > 0
    n_seen, n_occurs = seen.sum(axis=1), occurs.sum(axis=1)
    f1 = _ratio(2 * hits, true + predicted)
    recall = _ratio(hits, true)
    return {
        "macro_f1": f1.sum(axis=1) / n_seen,
        "weighted_f1": (f1 * true).sum(axis=1) / true.sum(axis=1),
        "macro_precision": _ratio(hits, predicted).sum(axis=1) / n_seen,
        "macro_recall": recall.sum(axis=1) / n_seen,
        "balanced_accuracy": recall.sum(axis=1) / n_occurs,
    }


def _multi_label(probabilities: Floats, targets: Ints) -> MetricsOfWeights:
    predicted = predicted_labels(probabilities, task="multi_label")
    wrong = targets != predicted
    means = {
        "subset_accuracy": (~wrong.any(axis=1)).astype(np.float64),
        "hamming_loss": wrong.mean(axis=1),
        "nll": binary_cross_entropy_terms(probabilities, targets),
    }
    is_hit = sparse.csr_array((targets * predicted).astype(np.float64))
    is_either = sparse.csr_array((targets + predicted).astype(np.float64))

    def metrics(weights: Floats) -> Resampled:
        values = _means(weights, means)
        hits, either = weights @ is_hit, weights @ is_either
        # F1 = 2 tp / (2 tp + fp + fn), and (true + predicted) counts tp twice already.
        values["micro_f1"] = _ratio(2 * hits.sum(axis=1), either.sum(axis=1))
        # A label that nobody carries and nobody is said to carry is left out.
        there = np.maximum(1, (either > 0).sum(axis=1))
        values["macro_f1"] = _ratio(2 * hits, either).sum(axis=1) / there
        return values

    return metrics


def _regression(predictions: Floats, targets: Floats) -> MetricsOfWeights:
    errors = predictions - targets
    # Centred first: the weighted variance below would cancel for targets far from zero.
    centred = targets - targets.mean()
    columns = {
        "mae": np.abs(errors),
        "mse": errors**2,
        "mean": centred,
        "square": centred**2,
    }

    def metrics(weights: Floats) -> Resampled:
        sums = _means(weights, columns)
        variance = sums["square"] - sums["mean"] ** 2
        variance[variance < 1e-12 * max(float(columns["square"].mean()), 1e-300)] = 0.0
        return {
            "mae": sums["mae"],
            "rmse": np.sqrt(sums["mse"]),
            "r2": 1 - _ratio(sums["mse"], variance, empty=np.nan),
        }

    return metrics


def _auroc(scores: Floats, positive: Ints) -> Callable[[Floats], Floats]:
    """Weights [r, n] -> area under the ROC curve [r]: P(score+ > score-) + P(equal) / 2."""
    order, first, last = _tie_groups(scores)
    at = np.flatnonzero(positive[order])
    begin, end = first[at], last[at]

    def area(weights: Floats) -> Floats:
        all_before = _running(weights[:, order])
        own = weights[:, order[at]]
        own_before = _running(own)
        # Weight of negatives up to a position = all minus the positives up to there.
        p_begin, p_end = np.searchsorted(at, begin), np.searchsorted(at, end)
        below = all_before[:, begin] - own_before[:, p_begin]
        up_to = all_before[:, end] - own_before[:, p_end]
        wins = (own * (below + up_to)).sum(axis=1) / 2
        n_positive = own_before[:, -1]
        return _ratio(wins, n_positive * (all_before[:, -1] - n_positive), empty=np.nan)

    return area


def _average_precision(scores: Floats, positive: Ints) -> Callable[[Floats], Floats]:
    """Weights [r, n] -> average precision [r]: ``sum_k (R_k - R_{k-1}) P_k`` over thresholds."""
    order, _, last = _tie_groups(-scores)
    at = np.flatnonzero(positive[order])
    end = last[at]

    def average(weights: Floats) -> Floats:
        all_before = _running(weights[:, order])
        own = weights[:, order[at]]
        own_before = _running(own)
        precision = _ratio(own_before[:, np.searchsorted(at, end)], all_before[:, end])
        return _ratio((own * precision).sum(axis=1), own_before[:, -1], empty=np.nan)

    return average


def _tie_groups(scores: Floats) -> tuple[Ints, Ints, Ints]:
    """Ascending order, and per sorted position where its group of equal scores begins and ends."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    first = np.searchsorted(ordered, ordered, side="left")
    last = np.searchsorted(ordered, ordered, side="right")
    return order, first, last


def _running(weights: Floats) -> Floats:
    """Running sums with a leading zero: column j holds the weight of positions < j."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _indicator(column: Ints, width: int, values: Floats | None = None) -> sparse.csr_array:
    n = len(column)
    data = np.ones(n) if values is None else values
    return sparse.csr_array((data, column, np.arange(n + 1)), shape=(n, width))


def _means(weights: Floats, columns: dict[str, Floats]) -> Resampled:
    values = weights @ np.column_stack(list(columns.values())) / weights.sum(axis=1)[:, None]
    return {name: values[:, i] for i, name in enumerate(columns)}


def _ratio(top: Floats, bottom: Floats, *, empty: float = 0.0) -> Floats:
    """top / bottom, and ``empty`` where bottom is zero."""
    out = np.full(np.broadcast_shapes(np.shape(top), np.shape(bottom)), empty)
    return np.divide(top, bottom, out=out, where=np.asarray(bottom) != 0)
