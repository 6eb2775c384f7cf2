"""Loss and training metrics of a task, for models that answer with logits."""

from __future__ import annotations

import keras

from tltf.errors import ArgumentError, nearest

TASKS = ("single_label", "multi_label", "regression")


def loss_for(task: str, *, label_smoothing: float = 0.0) -> keras.losses.Loss:
    """The task's loss on logits and float targets ``[B, C]``.

    single_label: cross-entropy with one-hot targets; multi_label: binary cross-entropy with
    0/1 targets, mean over labels; regression: mean squared error.

    Raises:
      ArgumentError: unknown task, or label smoothing for regression.
    """
    _check(task)
    if task == "regression":
        if label_smoothing:
            raise ArgumentError(
                f"label_smoothing={label_smoothing:g} with task=regression",
                where="--label_smoothing",
                next_action="leave it out",
            )
        return keras.losses.MeanSquaredError()
    kind = (
        keras.losses.CategoricalCrossentropy
        if task == "single_label"
        else keras.losses.BinaryCrossentropy
    )
    return kind(from_logits=True, label_smoothing=label_smoothing)


def metrics_for(task: str) -> list[keras.metrics.Metric]:
    """What the progress bar and history.jsonl show beside the loss; unweighted."""
    _check(task)
    if task == "single_label":
        return [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if task == "multi_label":
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)]
    return [keras.metrics.MeanAbsoluteError(name="mae")]


def _check(task: str) -> None:
    if task not in TASKS:
        raise ArgumentError(
            f"task={task!r}, expected one of {', '.join(TASKS)}{nearest(task, TASKS)}",
            where="--task",
        )
