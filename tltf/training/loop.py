"""The one loop: Keras' own compiled training step over data that is a function of the step.

It differs from ``model.fit`` in what it can start from (any epoch and step) and in what it
refuses to pass over (a loss that is not finite, an epoch that ends early). It gives the
losses that ``fit`` gives and honours Keras callbacks; a test holds both together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from tltf.errors import DataError, DivergenceError, InterruptedRun
from tltf.training.interrupts import StopRequest

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
    stop: StopRequest | None = None,
) -> None:
    """Trains the compiled model from ``(first_epoch, first_step)`` to the end of ``epochs``.

    Args:
      model: compiled; with metric variables already restored when ``first_step > 0``.
      data: the batches of each epoch.
      epochs: where to stop; fewer when a callback sets ``model.stop_training``.
      validation: evaluated after every epoch, its metrics get the prefix ``val_``.
      callbacks: receive what ``fit`` would send them, ``on_train_begin`` and ``_end`` too.
      after_step: called with the position of the next step, after each batch.
      stop: looked at after each batch.

    Raises:
      DivergenceError: the loss is NaN or infinite.
      DataError: an epoch had fewer batches than ``steps_per_epoch``.
      InterruptedRun: ``stop`` was set; ``after_step`` (or, at the end of an epoch, every
        ``on_epoch_end``) has been called before.
    """
    model.stop_training = False
    model.make_train_function()
    callbacks.on_train_begin()
    logs: dict[str, Any] = {}
    batches = data.train_dataset(first_epoch, first_step, epochs=max(0, epochs - first_epoch))
    iterator = iter(batches)
    for epoch in range(first_epoch, epochs):
        start = first_step if epoch == first_epoch else 0
        if start == 0:
            model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        steps = range(start, data.steps_per_epoch)
        _one_epoch(model, iterator, epoch, steps, callbacks, after_step, stop)
        logs = {key: float(value) for key, value in model.get_metrics_result().items()}
        _check_finite(logs["loss"], epoch, data.steps_per_epoch - 1)
        if validation is not None:
            results = model.evaluate(validation, verbose=0, return_dict=True)
            logs |= {f"val_{key}": float(value) for key, value in results.items()}
        callbacks.on_epoch_end(epoch, logs)
        if stop:
            raise _interrupted(stop, f"end of epoch {epoch + 1}")
        if model.stop_training:
            break
    if epochs > first_epoch:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    callbacks.on_train_end(logs)


def _one_epoch(
    model: keras.Model,
    iterator: Iterator[Any],
    epoch: int,
    steps: range,
    callbacks: keras.callbacks.CallbackList,
    after_step: Callable[[int, int], None] | None,
    stop: StopRequest | None,
) -> None:
    for step in steps:
        callbacks.on_train_batch_begin(step)
        try:
            logs = model.train_function(iterator)
        except (StopIteration, tf.errors.OutOfRangeError) as error:
            raise DataError(
                f"epoch {epoch + 1} ended after {step} of {steps.stop} batches",
                where="data",
                next_action="check that no file vanished, then run the same command again",
            ) from error
        if step % LOSS_CHECK_STEPS == 0:
            _check_finite(float(logs["loss"]), epoch, step)
        callbacks.on_train_batch_end(step, logs)
        if after_step is not None:
            last = step + 1 == steps.stop
            after_step(*((epoch + 1, 0) if last else (epoch, step + 1)))
        # A signal during the last batch lets the epoch end, so that it is recorded whole.
        if stop and step + 1 < steps.stop:
            raise _interrupted(stop, f"epoch {epoch + 1}, batch {step + 1}")
        if model.stop_training:
            break


def _interrupted(stop: StopRequest, where: str) -> InterruptedRun:
    return InterruptedRun("interrupted", signal_number=stop.signal_number or 2, where=where)


def _check_finite(loss: float, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise DivergenceError(
            f"the loss is {loss}",
            where=f"epoch {epoch + 1}, batch {step + 1}",
            next_action="lower the learning rate (--head_lr, --tune_lr), or look for broken labels",
        )
