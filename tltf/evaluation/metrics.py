"""Metric values, by scikit-learn wherever it has them.

Conventions: a class is predicted by the largest probability (the first of equals), a label of a
multi-label record by a probability >= 0.5. Macro averages run over the classes that occur among
the true or the predicted labels, and a class that is never predicted has precision 0: both are
scikit-learn's defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from tltf.evaluation.inputs import Floats, Ints
from tltf.evaluation.intervals import Interval, wilson

ECE_BINS = 15
TOP_K = (3, 5)


@dataclass(frozen=True, kw_only=True)
class MetricValues:
    """Metric name -> value, and for those that have none on these records, the reason."""

    values: dict[str, float]
    undefined: dict[str, str] = field(default_factory=dict)


def metric_values(outputs: Floats, targets: Ints | Floats, *, task: str) -> MetricValues:
    """The metrics of DESIGN 4.5 for one task, without intervals.

    Args:
      outputs: probabilities float64 [n, C] in [0, 1], or predictions float64 [n].
      targets: class indices int64 [n], {0, 1} int64 [n, C], or float64 [n].
      task: ``single_label``, ``multi_label`` or ``regression``.

    Example:
      >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
      >>> round(metric_values(p, np.array([0, 1, 1]), task="single_label").values["accuracy"], 3)
      0.667
    """
    if task == "single_label":
        return _single_label(outputs, np.asarray(targets, dtype=np.int64))
    if task == "multi_label":
        return _multi_label(outputs, np.asarray(targets, dtype=np.int64))
    return _regression(outputs, np.asarray(targets, dtype=np.float64))


def predicted_labels(probabilities: Floats, *, task: str) -> Ints:
    """Class indices int64 [n], or for multi_label {0, 1} int64 [n, C]."""
    if task == "multi_label":
        return (probabilities >= 0.5).astype(np.int64)
    return probabilities.argmax(axis=1)


def brier(probabilities: Floats, targets: Ints) -> float:
    """Multi-class Brier score, the sum form of Brier (1950), in [0, 2]; 0 is best.

    ``1/n * sum_i sum_c (probabilities[i, c] - [targets[i] == c])**2``. For two classes it is twice
    the value of the one-column form that scikit-learn calls ``brier_score_loss``.
    """
    return float(brier_terms(probabilities, targets).mean())


def brier_terms(probabilities: Floats, targets: Ints) -> Floats:
    """What :func:`brier` averages: float64 [n]."""
    # sum_c (p_c - y_c)^2 = sum_c p_c^2 - 2 p_true + 1, without the one-hot matrix.
    true = probabilities[np.arange(len(targets)), targets]
    return np.asarray(np.square(probabilities).sum(axis=1) - 2 * true + 1, dtype=np.float64)


def ece(confidences: Floats, correct: NDArray[np.bool_]) -> float:
    """Expected calibration error over 15 equal-width bins of confidence, in [0, 1].

    ``sum_b n_b/n * |mean correct in b - mean confidence in b|`` where bin b holds confidences in
    ``(b/15, (b+1)/15]`` (Guo et al. 2017, eq. 3). On n records it overestimates by about
    ``sqrt(15/n)`` times a constant; read it with its interval.

    Args:
      confidences: float64 [n] in [0, 1], the probability of the predicted label.
      correct: bool [n].
    """
    gaps = np.bincount(ece_bin(confidences), correct - confidences, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def ece_bin(confidences: Floats) -> Ints:
    """The bin 0..14 of each confidence; 0.0 itself goes to the first."""
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    return np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, ECE_BINS - 1)


def top_k_hits(probabilities: Floats, targets: Ints, *, k: int) -> NDArray[np.bool_]:
    """Whether the true class is among the k most probable: bool [n], ties as scikit-learn."""
    order = np.argsort(probabilities, axis=1, kind="mergesort")[:, ::-1]
    return np.asarray((order[:, :k] == targets[:, None]).any(axis=1))


def confusion_matrix(targets: Ints, predicted: Ints, *, n_classes: int) -> Ints:
    """int64 [C, C]: rows are true classes, columns predicted ones, in the order of ``classes``.

    For multi-label input [n, C]: one ``[[tn, fp], [fn, tp]]`` per label, [C, 2, 2].
    """
    if targets.ndim == 2:
        return sk.multilabel_confusion_matrix(targets, predicted)
    return sk.confusion_matrix(targets, predicted, labels=np.arange(n_classes))


def per_class_table(
    confusion: Ints, classes: Sequence[str], *, deff: float = 1.0
) -> dict[str, dict[str, object]]:
    """Class name -> precision, recall, f1, support, and their 95 % intervals.

    Precision and recall are proportions, so their intervals are Wilson's. So is
    ``J = tp / (tp + fp + fn)``, and ``F1 = 2 J / (1 + J)`` grows with J: the ends of J's Wilson
    interval map to those of F1. An interval is None where the denominator is zero (the value is
    then 0, as in scikit-learn).

    Args:
      confusion: of :func:`confusion_matrix`.
      classes: their names.
      deff: design effect: where records come in groups, n of them are worth n / deff.
    """
    if confusion.ndim == 3:
        tp, fp, fn = confusion[:, 1, 1], confusion[:, 0, 1], confusion[:, 1, 0]
    else:
        tp = np.diag(confusion)
        fp, fn = confusion.sum(axis=0) - tp, confusion.sum(axis=1) - tp
    rows: dict[str, dict[str, object]] = {}
    for i, name in enumerate(classes):
        hit, wrong, missed = int(tp[i]), int(fp[i]), int(fn[i])
        parts = {"precision": hit + wrong, "recall": hit + missed, "f1": hit + wrong + missed}
        shares = {key: hit / n if n else 0.0 for key, n in parts.items()}
        ends = {key: wilson(hit / deff, n / deff) if n else None for key, n in parts.items()}
        shares["f1"], ends["f1"] = _dice(shares["f1"]), _dice_interval(ends["f1"])
        rows[name] = {
            **shares,
            "support": hit + missed,
            "intervals": {key: list(end) if end else None for key, end in ends.items()},
        }
    return rows


def _dice(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


def _dice_interval(interval: Interval | None) -> Interval | None:
    return interval and (_dice(interval[0]), _dice(interval[1]))


def _single_label(probabilities: Floats, targets: Ints) -> MetricValues:
    n_classes = probabilities.shape[1]
    predicted = predicted_labels(probabilities, task="single_label")
    macro = {"average": "macro", "zero_division": 0.0}
    present = np.unique(targets)
    values = {
        "accuracy": sk.accuracy_score(targets, predicted),
        "macro_f1": sk.f1_score(targets, predicted, **macro),
        "weighted_f1": sk.f1_score(targets, predicted, average="weighted", zero_division=0.0),
        "macro_precision": sk.precision_score(targets, predicted, **macro),
        "macro_recall": sk.recall_score(targets, predicted, **macro),
        # sk.balanced_accuracy_score warns about classes that are predicted but not present.
        "balanced_accuracy": sk.recall_score(targets, predicted, average="macro", labels=present),
        "nll": sk.log_loss(targets, probabilities, labels=np.arange(n_classes)),
        "brier": brier(probabilities, targets),
        "ece": ece(probabilities.max(axis=1), predicted == targets),
    }
    for k in TOP_K:
        if n_classes > k:
            values[f"top{k}_accuracy"] = top_k_hits(probabilities, targets, k=k).mean()
    undefined = {}
    if len(present) < n_classes:
        missing = n_classes - len(present)
        undefined["auroc"] = f"{missing} of {n_classes} classes have no record among these"
    elif n_classes == 2:
        values["auroc"] = sk.roc_auc_score(targets, probabilities[:, 1])
    else:
        values["auroc"] = sk.roc_auc_score(targets, probabilities, multi_class="ovr")
    return MetricValues(values=_floats(values), undefined=undefined)


def _multi_label(probabilities: Floats, targets: Ints) -> MetricValues:
    predicted = predicted_labels(probabilities, task="multi_label")
    values = {
        "micro_f1": sk.f1_score(targets, predicted, average="micro", zero_division=0.0),
        "subset_accuracy": (targets == predicted).all(axis=1).mean(),
        "hamming_loss": (targets != predicted).mean(),
        "nll": binary_cross_entropy_terms(probabilities, targets).mean(),
    }
    undefined = {}
    occurs = targets.any(axis=0) | predicted.any(axis=0)
    if occurs.any():
        # As for classes: a label that nobody carries and nobody is said to carry is left out.
        each = sk.f1_score(targets, predicted, average=None, zero_division=0.0)
        values["macro_f1"] = each[occurs].mean()
    else:
        undefined["macro_f1"] = "no record carries any label, and none is predicted"
    seen = targets.any(axis=0)
    if seen.any():
        # A label without a positive record has no average precision; it is left out of the mean.
        values["mAP"] = sk.average_precision_score(targets[:, seen], probabilities[:, seen])
    else:
        undefined["mAP"] = "no record carries any label"
    return MetricValues(values=_floats(values), undefined=undefined)


def binary_cross_entropy_terms(probabilities: Floats, targets: Ints) -> Floats:
    """Mean over labels of ``-log p(true state)``, clipped as in scikit-learn: float64 [n]."""
    eps = np.finfo(np.float64).eps
    true = np.clip(np.where(targets == 1, probabilities, 1 - probabilities), eps, 1.0)
    return np.asarray(-np.log(true).mean(axis=1), dtype=np.float64)


def _regression(predictions: Floats, targets: Floats) -> MetricValues:
    values = {
        "mae": sk.mean_absolute_error(targets, predictions),
        "rmse": sk.root_mean_squared_error(targets, predictions),
    }
    if np.ptp(targets) == 0:
        reason = "all true values are equal, so there is no variance to explain"
        return MetricValues(values=_floats(values), undefined={"r2": reason})
    values["r2"] = sk.r2_score(targets, predictions)
    return MetricValues(values=_floats(values))


def _floats(values: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
