"""Checks what an evaluation is given, once, so that the rest can trust its arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tltf.errors import ArgumentError, DataError, named_list, nearest

TASKS = ("single_label", "multi_label", "regression")
ROW_SUM_TOLERANCE = 1e-3
"""float32 softmax over 1,000 classes is within 1e-5 of one; logits are not within 1e-3."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def check_task(task: str) -> None:
    """Raises ArgumentError unless ``task`` is one that can be evaluated."""
    if task not in TASKS:
        raise ArgumentError(
            f"task={task!r}, expected one of {', '.join(TASKS)}{nearest(str(task), TASKS)}",
            where="task",
        )


def check_classes(classes: Sequence[str], *, task: str) -> tuple[str, ...]:
    """The class names as a tuple: at least two for single_label, one for multi_label, else none.

    Raises:
      ArgumentError: too few names, names for a regression, or a name twice.
    """
    names = tuple(str(name) for name in classes)
    fewest = {"single_label": 2, "multi_label": 1, "regression": 0}[task]
    if len(names) < fewest or (task == "regression" and names):
        expected = "none" if task == "regression" else f"at least {fewest}"
        raise ArgumentError(
            f"{len(names)} classes, expected {expected} for task={task!r}", where="classes"
        )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ArgumentError(f"classes named twice: {named_list(twice)}", where="classes")
    return names


def check_outputs(
    values: ArrayLike, *, task: str, n_classes: int, what: str = "probabilities"
) -> Floats:
    """Finite model outputs as float64: [n, C], or [n] for a regression ([n, 1] is flattened).

    Raises:
      ArgumentError: another shape, or not numbers.
      DataError: no rows, NaN or infinity (rows are named).
    """
    array = _numbers(values, what)
    if task == "regression":
        array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        _expect(array.ndim == 1, what, array, "[n] or [n, 1]")
    else:
        hint = "; for one sigmoid output p pass np.column_stack([1 - p, p])"
        hint = hint if task == "single_label" and n_classes == 2 else ""
        good = array.ndim == 2 and array.shape[1] == n_classes
        _expect(good, what, array, f"[n, {n_classes}] for {n_classes} classes{hint}")
    if len(array) == 0:
        raise DataError(
            "there are no examples to evaluate",
            where=what,
            next_action="give the split at least one record",
        )
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise DataError(
            f"NaN or infinity in {len(bad)} of {len(array)} rows, first rows {named_list(bad)}",
            where=what,
            next_action="look for a diverged loss in history.jsonl, or for bad inputs",
        )
    return array


def check_probabilities(values: ArrayLike, *, task: str, n_classes: int) -> Floats:
    """Outputs as :func:`check_outputs`, in [0, 1]; single_label rows are scaled to sum to one.

    Raises:
      DataError: a value outside [0, 1], or a single_label row whose sum is not 1 within 1e-3.
    """
    array = check_outputs(values, task=task, n_classes=n_classes)
    if task == "regression":
        return array
    low, high = float(array.min()), float(array.max())
    if low < -ROW_SUM_TOLERANCE or high > 1 + ROW_SUM_TOLERANCE:
        raise DataError(
            f"probabilities reach from {low:g} to {high:g}, expected 0 to 1",
            where="probabilities",
            next_action="if these are logits, pass them through "
            "tltf.evaluation.calibration.apply_temperature first",
        )
    array = np.clip(array, 0.0, 1.0)
    if task == "multi_label":
        return array
    sums = array.sum(axis=1)
    bad = np.flatnonzero(np.abs(sums - 1) > ROW_SUM_TOLERANCE)
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(array)} rows do not sum to 1, row {bad[0]} to {sums[bad[0]]:g}",
            where="probabilities",
            next_action="apply a softmax, or use task='multi_label' for independent labels",
        )
    return np.asarray(array / sums[:, None], dtype=np.float64)


def check_targets(values: ArrayLike, *, task: str, n: int, n_classes: int) -> Ints | Floats:
    """True labels: int64 [n] in [0, C), int64 {0, 1} [n, C], or finite float64 [n].

    Raises:
      ArgumentError: another shape, or not numbers.
      DataError: a class index out of range, a value that is not 0 or 1, NaN.
    """
    array = _numbers(values, "targets")
    if task == "regression" and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    shape = (n, n_classes) if task == "multi_label" else (n,)
    expected = f"{list(shape)}, one row per row of the predictions"
    if task == "single_label" and array.shape == (n, n_classes):
        expected += "; for one-hot rows pass targets.argmax(axis=1)"
    _expect(array.shape == shape, "targets", array, expected)
    if not np.isfinite(array).all():
        raise DataError("NaN or infinity among the true labels", where="targets")
    if task == "regression":
        return array
    high = n_classes - 1 if task == "single_label" else 1
    if (array != np.round(array)).any() or array.min() < 0 or array.max() > high:
        raise DataError(
            f"true labels from {array.min():g} to {array.max():g}, expected whole numbers"
            f" in 0..{high}",
            where="targets",
            next_action="number the labels in the order of `classes`",
        )
    return array.astype(np.int64)


def _numbers(values: ArrayLike, what: str) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{what} cannot be read as an array of numbers: {error}", where=what
        ) from error


def _expect(good: bool, what: str, array: Floats, expected: str) -> None:
    if not good:
        raise ArgumentError(f"{what} of shape {list(array.shape)}, expected {expected}", where=what)
