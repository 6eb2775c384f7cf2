"""Callbacks that work in anyone's ``model.fit`` as well as in tltf's own loop."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tltf import storage
from tltf.errors import ArgumentError, TrainabilityError, named_list
from tltf.spec import BATCH_NORMS
from tltf.training import freezing, movement, phases
from tltf.training.freezing import Trainability


class TrainabilityGuard(keras.callbacks.Callback):
    """Raises when ``fit`` would train something else than what was compiled or intended.

    Plain Keras trains on the old list, silently, when ``trainable`` is changed after
    ``compile``. Checked at the start and at every epoch.

    Args:
      trainability: what :func:`tltf.enter_phase` returned; None checks against ``compile``.

    Raises:
      TrainabilityError: from ``fit``, with what to do.
    """

    def __init__(self, trainability: Trainability | None = None) -> None:
        super().__init__()
        self.trainability = trainability

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._check()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._check()

    def _check(self) -> None:
        intended = self.trainability or Trainability(
            trainable=tuple(v.path for v in self.model.trainable_variables),
            frozen=(),
            adapting=(),
            blocks=(),
        )
        phases.check_trainable(self.model, intended)


class FrozenCheck(keras.callbacks.Callback):
    """Raises when a frozen variable is not bit for bit what it was when training began.

    Seed states may move.

    Args:
      batch_norm: ``adapt`` lets the statistics of BatchNorm layers that are trainable move;
        ``frozen`` wants all of them still, as a base that is called with ``training=False``
        promises (inside ``fit`` Keras ignores that).

    Raises:
      TrainabilityError: from ``fit``, at the end of the first epoch in which it happened.
    """

    def __init__(self, *, batch_norm: str = "adapt") -> None:
        super().__init__()
        if batch_norm not in BATCH_NORMS:
            raise ArgumentError(
                f"batch_norm={batch_norm!r}, expected one of {', '.join(BATCH_NORMS)}",
                where="FrozenCheck",
            )
        self.batch_norm = batch_norm

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        moving = {id(v) for v in self.model.trainable_variables}
        if self.batch_norm == "adapt":
            layers = freezing.leaves(self.model)
            moving |= {id(v) for v in freezing.norm_statistics(layers)}
        self._frozen = [
            v
            for v in self.model.variables
            if id(v) not in moving and not v.path.endswith("seed_generator_state")
        ]
        self._before = movement.digests(self._frozen)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        after = movement.digests(self._frozen)
        moved = [key.rpartition("#")[0] for key in after if after[key] != self._before[key]]
        if moved:
            raise TrainabilityError(
                f"frozen variables changed during epoch {epoch + 1}: {named_list(moved, most=3)}",
                where=self.model.name,
                next_action="build the model with tltf.classifier, whose frozen layers run in"
                " inference mode inside fit, and enter the phase with tltf.enter_phase",
            )


class HistoryJsonl(keras.callbacks.Callback):
    """Writes one JSON line per epoch: ``epoch`` from 1, every metric, and ``extra``.

    The file is replaced atomically each time, so a reader never sees half a line. Numbers
    that are not finite are written as null.

    Args:
      path: the file; lines that it holds already are kept.
      extra: further fields of each line, for example ``{"phase": "head"}``.
    """

    def __init__(self, path: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.extra = dict(extra or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        row = {**self.extra, "epoch": epoch + 1}
        row |= {key: finite(value) for key, value in (logs or {}).items()}
        before = self.path.read_text("utf-8") if self.path.exists() else ""
        storage.write_text(self.path, before + json.dumps(row) + "\n")


class KeepBest(keras.callbacks.Callback):
    """Remembers the best epoch's weights and stops when there was none better for long.

    Only what the phase changes is copied: trainable variables and adapting BatchNorm
    statistics. A value that is not finite is never the best (FAULTS N2).

    Args:
      monitor: the metric; smaller is better unless ``mode="max"``.
      patience: epochs without a better value before training stops; None never stops.
      restore: put the best weights back when training ends.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        mode: str = "min",
        patience: int | None = None,
        restore: bool = True,
    ) -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ArgumentError(f"mode={mode!r}, expected min or max", where="KeepBest")
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.restore_at_end = restore
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch, self.waited = -1, 0
        self.values: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.monitor not in (logs or {}):
            raise ArgumentError(
                f"monitor={self.monitor!r} is not among {sorted(logs or {})}", where="KeepBest"
            )
        value = float(logs[self.monitor])  # type: ignore[index]
        better = value < self.best if self.mode == "min" else value > self.best
        if math.isfinite(value) and better:
            self.best, self.best_epoch, self.waited = value, epoch, 0
            self.values = [keras.ops.convert_to_numpy(v.value) for v in self._changing()]
            return
        self.waited += 1
        if self.finished:
            self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if self.restore_at_end:
            self.restore()

    def restore(self) -> None:
        """Puts the best weights back; nothing happens before the first finite epoch."""
        for variable, value in zip(self._changing(), self.values, strict=False):
            variable.assign(value)

    @property
    def finished(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a resumed run needs: JSON fields and arrays; :meth:`set_state` takes them."""
        fields = {
            "best": self.best if math.isfinite(self.best) else None,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
        }
        return fields, {f"{i:05d}": value for i, value in enumerate(self.values)}

    def set_state(self, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Takes what :meth:`state` gave."""
        if fields["best"] is not None:
            self.best = fields["best"]
        self.best_epoch, self.waited = fields["best_epoch"], fields["waited"]
        self.values = [np.array(arrays[key]) for key in sorted(arrays)]

    def _changing(self) -> list[keras.Variable]:
        statistics = freezing.norm_statistics(freezing.leaves(self.model))
        return [*self.model.trainable_variables, *statistics]


class LearningRateFinder(keras.callbacks.Callback):
    """Raises the rate exponentially over ``steps`` batches, then puts everything back.

    At step t the rate is ``low * (high / low) ** (t / (steps - 1))``. Weights, optimizer and
    seed states are restored bit for bit when the sweep ends, and training stops there.
    ``suggestion`` is the rate of the steepest fall of the smoothed loss, as in Smith,
    *Cyclical Learning Rates for Training Neural Networks* (2017), section 3.3.

    Args:
      low, high: learning rates, 0 < low < high.
      steps: batches of the sweep, >= 10; stops early where the loss explodes or is not finite.
      smoothing: weight of the past in the running mean of the loss, [0, 1).

    Example::

      finder = tltf.LearningRateFinder()
      model.fit(data.repeat(), steps_per_epoch=finder.steps, callbacks=[finder])
      print(finder.suggestion)
    """

    def __init__(
        self, low: float = 1e-6, high: float = 1.0, *, steps: int = 100, smoothing: float = 0.9
    ) -> None:
        super().__init__()
        if not (0 < low < high and steps >= 10 and 0 <= smoothing < 1):
            raise ArgumentError(
                f"low={low}, high={high}, steps={steps}, smoothing={smoothing}; expected"
                " 0 < low < high, steps >= 10 and smoothing in [0, 1)",
                where="LearningRateFinder",
            )
        self.low, self.high, self.steps, self.smoothing = low, high, steps, smoothing
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._mean = 0.0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        # The rate is one of the optimizer's variables: kept before the sweep sets it.
        self._held = [*self.model.variables, *optimizer.variables]
        self._saved = [keras.ops.convert_to_numpy(v.value) for v in self._held]
        try:
            optimizer.learning_rate = self.low
        except (TypeError, AttributeError) as error:
            raise ArgumentError(
                "the optimizer has a schedule or several rates; the finder needs one number",
                where="LearningRateFinder",
                next_action="compile with a plain rate: Phase(..., schedule='constant', warmup=0)",
            ) from error
        self.rates, self.losses, self._mean = [], [], 0.0

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        rate = self.low * (self.high / self.low) ** (len(self.rates) / (self.steps - 1))
        self.model.optimizer.learning_rate = rate
        self.rates.append(rate)
        # Keras reports the mean since the epoch began; the sweep needs each batch by itself.
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        self._mean = self.smoothing * self._mean + (1 - self.smoothing) * loss
        smoothed = self._mean / (1 - self.smoothing ** len(self.rates))
        exploded = not math.isfinite(loss) or (
            bool(self.losses) and smoothed > 4 * min(self.losses)
        )
        self.losses.append(smoothed)
        if exploded or len(self.rates) >= self.steps:
            self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        for variable, value in zip(self._held, self._saved, strict=True):
            variable.assign(value)

    @property
    def suggestion(self) -> float:
        """The rate where the smoothed loss falls fastest against log(rate)."""
        losses = np.array(self.losses)
        good = np.isfinite(losses)
        if good.sum() < 3:
            raise ArgumentError(
                f"the sweep has {int(good.sum())} finite losses, expected at least 3",
                where="LearningRateFinder",
                next_action="start lower, or use more steps",
            )
        slope = np.gradient(losses[good], np.log(np.array(self.rates)[good]))
        return float(np.array(self.rates)[good][int(np.argmin(slope))])


def finite(value: Any) -> float | None:
    """The number for JSON: NaN and infinity become None."""
    number = float(value)
    return number if math.isfinite(number) else None
