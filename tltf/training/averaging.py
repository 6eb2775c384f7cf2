"""The mean of the weights over the steps of a phase, which is what is validated and kept.

Keras' optimizers keep the means beside the weights, as variables of their own, so that they are
saved and resumed with the rest: with ``use_ema`` after step t

    mean = m mean + (1 - m) w_t,        mean = w_1 after the first.

``ema:M`` is that with m = M (Polyak & Juditsky 1992). ``swa:SHARE`` is the plain mean of the
weights after the last steps (Izmailov et al., *Averaging Weights Leads to Wider Optima and Better
Generalization*, UAI 2018, algorithm 1, with a cycle of one step): m = n / (n + 1) from the first
step of that share on, where n counts the weights that are in the mean already.

``keras.callbacks.SwapEMAWeights`` exchanges weights and means by adding and subtracting, which
rounds the weights at each validation; here they are exchanged bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from tltf.methods import average
from tltf.spec import Phase


class Averages:
    """The means in the optimizer of ``model``, which is compiled and built; none for most phases.

    Args:
      model: what trains.
      phase: with ``average`` and ``epochs``.
      steps_per_epoch: batches of an epoch.
    """

    def __init__(self, model: keras.Model, phase: Phase, *, steps_per_epoch: int) -> None:
        kind, number = average(phase.average)
        self._model, self.steps_per_epoch = model, steps_per_epoch
        self._optimizers = _parts(model.optimizer) if kind != "none" else []
        self._in_place = False
        self._start: int | None = None
        if kind == "swa":
            steps = (phase.epochs or 0) * steps_per_epoch
            self._start = min(steps - 1, steps - math.ceil(number * steps))
            self._momentum = keras.Variable(0.0, trainable=False, name="swa_momentum")
            for optimizer in self._optimizers:
                optimizer.ema_momentum = self._momentum

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What tells a uniform mean how many weights are in it."""
        return [] if self._start is None else [_Counting(self)]

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The means are the model's weights inside."""
        self._exchange(in_place=True)
        try:
            yield
        finally:
            self._exchange(in_place=False)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """The weights that train are the model's inside, within :meth:`shown` too."""
        before = self._in_place
        self._exchange(in_place=False)
        try:
            yield
        finally:
            self._exchange(in_place=before)

    def keep(self) -> None:
        """Leaves the means in the model, when the phase ends."""
        if self._optimizers:
            self._model.optimizer.finalize_variable_values(self._model.trainable_variables)

    def count(self, step: int) -> None:
        """Before the phase's step ``step``, from 0."""
        n = step - (self._start or 0)
        self._momentum.assign(n / (n + 1) if n > 0 else 0.0)

    def _exchange(self, *, in_place: bool) -> None:
        if in_place == self._in_place:
            return
        self._in_place = in_place
        for optimizer in self._optimizers:
            # seam: Optimizer._trainable_variables, Optimizer._model_variables_moving_average
            means = optimizer._model_variables_moving_average
            for variable, mean in zip(optimizer._trainable_variables, means, strict=True):
                held = keras.ops.convert_to_numpy(variable.value)
                variable.assign(keras.ops.convert_to_numpy(mean.value))
                mean.assign(held)


class _Counting(keras.callbacks.Callback):
    def __init__(self, averages: Averages) -> None:
        super().__init__()
        self._averages, self._epoch = averages, 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._averages.count(self._epoch * self._averages.steps_per_epoch + batch)


def _parts(optimizer: Any) -> list[Any]:
    """The optimizers that hold means: of a phase with rates by block there are several."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return [one for one in optimizer.optimizers if one.built]
    return [optimizer]
