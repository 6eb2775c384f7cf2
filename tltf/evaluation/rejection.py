"""The reject rule: answer only when confident enough, for a wanted share of the inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tltf.errors import ArgumentError, DataError
from tltf.evaluation.calibration import apply_temperature, fit_temperature
from tltf.evaluation.inputs import Floats, Ints
from tltf.evaluation.intervals import share_interval
from tltf.evaluation.metrics import predicted_labels

COVERAGE = 0.95


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """What turns logits into an answer or a refusal; fitted on validation, kept in the servable.

    Args:
      temperature: divides the logits, > 0.
      threshold: an input is accepted when its confidence is at least this, in [0, 1].
      coverage: the share of validation that was to be accepted, in (0, 1].
    """

    temperature: float = 1.0
    threshold: float = 0.0
    coverage: float = 1.0


def fit_rule(
    logits: ArrayLike, targets: ArrayLike, *, task: str, coverage: float = COVERAGE
) -> DecisionRule:
    """Temperature and threshold from validation logits [n, C] and targets.

    A regression has no confidence: its rule accepts everything.

    Raises:
      ArgumentError, DataError: as :func:`~tltf.evaluation.calibration.fit_temperature`.
    """
    temperature = fit_temperature(logits, targets, task=task)
    if task == "regression":
        return DecisionRule()
    sure = confidence(apply_temperature(logits, temperature, task=task), task=task)
    threshold = fit_threshold(sure, coverage=coverage)
    return DecisionRule(temperature=temperature, threshold=threshold, coverage=coverage)


def confidence(probabilities: Floats, *, task: str) -> Floats:
    """How sure each prediction is, float64 [n] in [0, 1].

    The largest probability; for multi_label the sureness ``max(p, 1 - p)`` of the least sure label.
    """
    if task == "multi_label":
        return np.asarray(np.maximum(probabilities, 1 - probabilities).min(axis=1))
    return np.asarray(probabilities.max(axis=1))


def fit_threshold(confidences: ArrayLike, *, coverage: float = COVERAGE) -> float:
    """The largest threshold that still accepts ``coverage`` of these confidences.

    Accepted means ``confidence >= threshold``. With n sorted confidences it is the one at
    ``floor((1 - coverage) * n)``.

    Args:
      confidences: [n] in [0, 1].
      coverage: in (0, 1].

    Raises:
      ArgumentError: coverage outside (0, 1].
      DataError: no confidences, or NaN among them.

    Example:
      >>> fit_threshold([0.5, 0.6, 0.7, 0.8], coverage=0.75)
      0.6
    """
    if not 0 < coverage <= 1:
        raise ArgumentError(f"coverage={coverage!r}, expected a share in (0, 1]", where="coverage")
    values = np.sort(np.asarray(confidences, dtype=np.float64).ravel())
    if not len(values) or np.isnan(values).any():
        raise DataError(
            f"{len(values)} confidences with NaN or none at all, expected at least one number",
            where="confidences",
            next_action="give validation at least one record",
        )
    # 1 - 0.9 is a little less than 0.1: without the allowance one record would be lost.
    return float(values[math.floor((1 - coverage) * len(values) + 1e-9)])


def reject_block(
    probabilities: Floats,
    targets: Ints,
    *,
    threshold: float,
    wanted: float,
    task: str,
    units: Ints | None = None,
) -> dict[str, object]:
    """The ``reject`` part of report.json, on test records.

    Returns:
      ``threshold``, ``wanted_coverage``, ``coverage``, ``accuracy_accepted`` and
      ``accuracy_rejected`` (None when nothing is accepted or rejected) with Wilson intervals
      ``*_interval``, on the effective n where ``units`` are groups; ``n`` and ``n_accepted``. A
      multi_label record is right when all its labels are.
    """
    accepted = confidence(probabilities, task=task) >= threshold
    correct = predicted_labels(probabilities, task=task) == targets
    correct = correct.all(axis=1) if task == "multi_label" else correct
    n, kept = len(targets), int(accepted.sum())

    def measured(
        values: NDArray[np.bool_], of: NDArray[np.bool_]
    ) -> tuple[float | None, list[float] | None]:
        if not of.any():
            return None, None
        share = values[of].astype(np.float64)
        some = None if units is None else np.unique(units[of], return_inverse=True)[1]
        return float(share.mean()), list(share_interval(share, some))

    coverage, coverage_interval = measured(accepted, np.ones(n, dtype=bool))
    right, right_interval = measured(correct, accepted)
    other, other_interval = measured(correct, ~accepted)
    return {
        "threshold": float(threshold),
        "wanted_coverage": float(wanted),
        "coverage": coverage,
        "coverage_interval": coverage_interval,
        "accuracy_accepted": right,
        "accuracy_accepted_interval": right_interval,
        "accuracy_rejected": other,
        "accuracy_rejected_interval": other_interval,
        "n": n,
        "n_accepted": kept,
    }
