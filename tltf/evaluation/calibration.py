"""Temperature scaling (Guo et al. 2017): one number, fitted on validation, that makes
probabilities mean what they say and leaves every predicted label as it was."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from tltf.errors import ArgumentError
from tltf.evaluation.inputs import Floats, Ints, check_outputs, check_targets, check_task
from tltf.evaluation.metrics import (
    ECE_BINS,
    ece,
    ece_bin,
    metric_values,
    predicted_labels,
)

TEMPERATURE_RANGE = (0.05, 20.0)
PRIOR_SPREAD = 0.2
"""Standard deviation of log T before anything is known."""

Bin = dict[str, float | int | None]


def fit_temperature(logits: ArrayLike, targets: ArrayLike, *, task: str) -> float:
    """The T in [0.05, 20] whose ``softmax(logits / T)`` has the least log-loss.

    Minimises over log T, by Brent's method, ``sum_i -log p_T(targets[i]) + (log T)^2 / 2 s^2``
    with s = 0.2: a prior for which T = 0.8 and T = 1.2 are one standard deviation away. It holds T
    back where validation says little: 45 photos of cats and dogs without an error would drive it
    to its limit, and the two mild errors of 90 hand signs ask for T = 0.6, which the worse errors
    of the next 90 pay for. Among a thousand records it is forgotten. (Smoothed targets, as of
    Platt 1999, soften the answers of a model that is simply right.) multi_label uses sigmoids and
    binary cross-entropy.

    Args:
      logits: finite [n, C], of validation records.
      targets: int [n], or {0, 1} [n, C] for multi_label.
      task: a regression has no temperature; 1.0 is returned.

    Returns:
      T > 0; above 1 softens. 1.0 when no T is better than that.

    Raises:
      ArgumentError: shapes that do not belong together.
      DataError: NaN, infinity, no rows, or targets out of range.

    Example:
      >>> fit_temperature([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0]], [0, 1, 1], task="single_label") > 1
      True
    """
    check_task(task)
    if task == "regression":
        return 1.0
    n_classes = np.shape(logits)[1] if np.ndim(logits) == 2 else 2
    z = check_outputs(logits, task=task, n_classes=n_classes, what="logits")
    y = np.asarray(check_targets(targets, task=task, n=len(z), n_classes=n_classes), dtype=np.int64)

    def loss(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        prior = (log_temperature / PRIOR_SPREAD) ** 2 / 2
        if task == "multi_label":
            # -log sigmoid(s) = log(1 + exp(-s))
            return prior + float(np.logaddexp(0, np.where(y == 1, -scaled, scaled)).sum())
        log_p = log_softmax(scaled, axis=1)
        return prior - float(log_p[np.arange(len(y)), y].sum())

    bounds = tuple(np.log(TEMPERATURE_RANGE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def apply_temperature(logits: ArrayLike, temperature: float, *, task: str) -> Floats:
    """Calibrated probabilities float64 [n, C]; a regression's predictions are returned as float64.

    ``softmax(logits / temperature)``, or a sigmoid per label. Dividing by T > 0 keeps the order
    of the logits, hence the predicted label (and the side of 0.5).

    Raises:
      ArgumentError: the temperature is not a positive finite number.
    """
    check_task(task)
    if not (np.isfinite(temperature) and temperature > 0):
        raise ArgumentError(
            f"temperature={temperature!r}, expected a positive number", where="temperature"
        )
    z = np.asarray(logits, dtype=np.float64)
    if task == "regression":
        return z
    scaled = z / temperature
    return np.asarray(expit(scaled) if task == "multi_label" else softmax(scaled, axis=1))


def calibration_block(
    logits: Floats, targets: Ints, *, temperature: float, task: str
) -> dict[str, object]:
    """The ``calibration`` part of report.json, on test records.

    Returns:
      ``temperature``, ``ece_before``, ``ece_after``, ``nll_before``, ``nll_after`` and the
      reliability diagram's bins ``before`` and ``after`` (see :func:`reliability_bins`). For
      multi_label every label of every record counts as one binary decision.
    """
    block: dict[str, object] = {"temperature": temperature}
    for when, t in (("before", 1.0), ("after", temperature)):
        probabilities = apply_temperature(logits, t, task=task)
        confidences, correct = decisions(probabilities, targets, task=task)
        block[f"ece_{when}"] = ece(confidences, correct)
        block[f"nll_{when}"] = metric_values(probabilities, targets, task=task).values["nll"]
        block[when] = reliability_bins(confidences, correct)
    return block


def decisions(
    probabilities: Floats, targets: Ints, *, task: str
) -> tuple[Floats, NDArray[np.bool_]]:
    """Confidence float64 and correctness bool of each decision: [n], or [n * C] for multi_label."""
    predicted = predicted_labels(probabilities, task=task)
    if task == "multi_label":
        return np.maximum(probabilities, 1 - probabilities).ravel(), (predicted == targets).ravel()
    return probabilities.max(axis=1), predicted == targets


def reliability_bins(confidences: Floats, correct: NDArray[np.bool_]) -> list[Bin]:
    """15 rows ``{"low", "high", "count", "confidence", "accuracy"}``; means are None if empty."""
    which = ece_bin(confidences)
    counts = np.bincount(which, minlength=ECE_BINS)
    sums = [np.bincount(which, x, minlength=ECE_BINS) for x in (confidences, correct)]
    return [
        {
            "low": b / ECE_BINS,
            "high": (b + 1) / ECE_BINS,
            "count": int(count),
            "confidence": float(sums[0][b] / count) if count else None,
            "accuracy": float(sums[1][b] / count) if count else None,
        }
        for b, count in enumerate(counts)
    ]
