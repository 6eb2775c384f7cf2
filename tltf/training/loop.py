"""The one loop: Keras' own compiled training step over data that is a function of the step.

It differs from ``model.fit`` in what it can start from (any epoch and step) and in what it
refuses to pass over (a loss that is not finite, an epoch that ends early). It gives the
losses that ``fit`` gives and honours Keras callbacks; a test holds both together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from tltf.errors import DataError, DivergenceError, InterruptedRun
from tltf.training.interrupts import Interrupted, StopRequest
from tltf.training.strategies import Distribution

LOSS_CHECK_STEPS = 10


class EpochData(Protocol):
    """What the loop trains on; :class:`tltf.data.batches.Batches` is one."""

    @property
    def steps_per_epoch(self) -> int: ...

    def train_dataset(
        self, epoch: int, start_step: int = 0, *, epochs: int = 1
    ) -> tf.data.Dataset: ...


@dataclass(frozen=True)
class DatasetEpochs:
    """A plain batched ``tf.data.Dataset`` as :class:`EpochData`: the same order every epoch."""

    dataset: tf.data.Dataset

    @property
    def steps_per_epoch(self) -> int:
        steps = int(self.dataset.cardinality())
        if steps < 0:
            steps = sum(1 for _ in self.dataset)
        return steps

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        return self.dataset.repeat(epochs).skip(start_step)


def run_epochs(
    model: keras.Model,
    data: EpochData,
    *,
    epochs: int,
    validation: tf.data.Dataset | None = None,
    callbacks: keras.callbacks.CallbackList,
    first_epoch: int = 0,
    first_step: int = 0,
    after_step: Callable[[int, int], None] | None = None,
    commit: Callable[[int, int], None] | None = None,
    begin: Callable[[], None] | None = None,
    stop: StopRequest | None = None,
    distribution: Distribution | None = None,
    judged: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Trains the compiled model from ``(first_epoch, first_step)`` to the end of ``epochs``.

    Args:
      model: compiled; with metric variables already restored when ``first_step > 0``.
      data: the batches of each epoch.
      epochs: where to stop; fewer when a callback sets ``model.stop_training``.
      validation: evaluated after every epoch, its metrics get the prefix ``val_``.
      callbacks: receive what ``fit`` would send them, ``on_train_begin`` and ``_end`` too.
      after_step: called with the position of the next step, after each batch; a step equal to
        ``steps_per_epoch`` means that the validation comes next.
      commit: called with that position when a signal stops the validation.
      begin: called after ``on_train_begin``, in which callbacks forget what they knew.
      stop: looked at after each batch.
      distribution: over which devices; None for the one that TensorFlow takes.
      judged: entered around the validation and ``on_epoch_end``; puts the weights in place that
        are to be judged, where those are not the ones that train.

    Raises:
      DivergenceError: the loss is NaN or infinite.
      DataError: an epoch had fewer batches than ``steps_per_epoch``.
      InterruptedRun: ``stop`` was set; ``after_step`` or ``commit`` has been called before.
    """
    # A request that has not come is false.
    stop = StopRequest() if stop is None else stop
    distribution = distribution or Distribution()
    distribution.asked = lambda: bool(stop)
    with stop.at_borders():
        _run(
            model,
            data,
            range(first_epoch, epochs),
            first_step,
            _Hooks(callbacks, after_step, commit, begin, stop, judged),
            validation,
            distribution,
        )


@dataclass(frozen=True)
class _Hooks:
    """Who is told what."""

    callbacks: keras.callbacks.CallbackList
    after_step: Callable[[int, int], None] | None
    commit: Callable[[int, int], None] | None
    begin: Callable[[], None] | None
    stop: StopRequest
    judged: Callable[[], AbstractContextManager[None]]


def _run(
    model: keras.Model,
    data: EpochData,
    epochs: range,
    first_step: int,
    hooks: _Hooks,
    validation: tf.data.Dataset | None,
    distribution: Distribution,
) -> None:
    model.stop_training = False
    step = distribution.train_function(model)
    hooks.callbacks.on_train_begin()
    if hooks.begin is not None:
        hooks.begin()
    logs: dict[str, Any] = {}
    iterator = distribution.iterator(
        data.train_dataset(epochs.start, first_step, epochs=len(epochs))
    )
    for epoch in epochs:
        start = first_step if epoch == epochs.start else 0
        if start == 0:
            model.reset_metrics()
        hooks.callbacks.on_epoch_begin(epoch)
        steps = range(start, data.steps_per_epoch)
        _one_epoch(model, lambda: step(iterator), epoch, steps, hooks, distribution)
        logs = {key: float(value) for key, value in model.get_metrics_result().items()}
        _check_finite(logs["loss"], epoch, data.steps_per_epoch - 1)
        with hooks.judged():
            if validation is not None:
                results = _validated(
                    model,
                    lambda: distribution.evaluate(model, validation),
                    (epoch, data.steps_per_epoch),
                    hooks,
                    waits=distribution.workers > 1,
                )
                logs |= {f"val_{key}": float(value) for key, value in results.items()}
            hooks.callbacks.on_epoch_end(epoch, logs)
        if distribution.stopping():
            raise _interrupted(hooks.stop, f"end of epoch {epoch + 1}")
        if model.stop_training:
            break
    if epochs:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    hooks.callbacks.on_train_end(logs)


def _one_epoch(
    model: keras.Model,
    train: Callable[[], dict[str, Any]],
    epoch: int,
    steps: range,
    hooks: _Hooks,
    distribution: Distribution,
) -> None:
    for step in steps:
        hooks.callbacks.on_train_batch_begin(step)
        try:
            logs = train()
        except (StopIteration, tf.errors.OutOfRangeError) as error:
            raise DataError(
                f"epoch {epoch + 1} ended after {step} of {steps.stop} batches",
                where="data",
                next_action="check that no file vanished, then run the same command again",
            ) from error
        if step % LOSS_CHECK_STEPS == 0:
            _check_finite(float(logs["loss"]), epoch, step)
        hooks.callbacks.on_train_batch_end(step, logs)
        if hooks.after_step is not None:
            hooks.after_step(epoch, step + 1)
        if distribution.stopping():
            raise _interrupted(hooks.stop, f"epoch {epoch + 1}, batch {step + 1}")
        if model.stop_training:
            break


def _validated(
    model: keras.Model,
    evaluate: Callable[[], dict[str, float]],
    position: tuple[int, int],
    hooks: _Hooks,
    *,
    waits: bool,
) -> dict[str, float]:
    """The metrics on the validation; a signal commits the epoch as trained, not yet measured.

    With ``waits`` it is measured first: no process may leave the others alone.
    """
    counted = [v.numpy() for v in model.metrics_variables]
    try:
        with hooks.stop.at_borders(waits=waits):
            results = evaluate()
    except Interrupted as error:
        for variable, value in zip(model.metrics_variables, counted, strict=False):
            variable.assign(value)
        if hooks.commit is not None:
            hooks.commit(*position)
        where = f"validation of epoch {position[0] + 1}"
        raise _interrupted(hooks.stop, where) from error
    return results


def _interrupted(stop: StopRequest, where: str) -> InterruptedRun:
    return InterruptedRun("interrupted", signal_number=stop.signal_number or 2, where=where)


def _check_finite(loss: float, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise DivergenceError(
            f"the loss is {loss}",
            where=f"epoch {epoch + 1}, batch {step + 1}",
            next_action="lower the learning rate (--head_lr, --tune_lr), or look for broken labels",
        )
