"""A phase's optimizer: warm-up, decay, per-block learning rates, all of Keras' own making."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from tltf.errors import ArgumentError
from tltf.methods import average
from tltf.spec import Phase
from tltf.training.adam import Adam, AdamW

NOT_DECAYED = ("bias", "gamma", "beta")


def build_optimizer(
    phase: Phase, *, steps: int, blocks: Mapping[str, list[keras.layers.Layer]] | None = None
) -> keras.optimizers.Optimizer:
    """A fresh optimizer for one phase (FACTS 5.4: never re-used across phases).

    With ``block_lr_decay = d < 1`` the head learns at ``learning_rate`` and the k-th
    unfrozen block below it (k = 1 for the topmost) at ``learning_rate * d**k``; ``clipnorm``
    then clips the gradient of each block, and of the head, by itself.

    Args:
      phase: with a learning rate.
      steps: optimizer steps of the whole phase, >= 1.
      blocks: the unfrozen blocks, bottom to top; only read when ``block_lr_decay < 1``.

    Raises:
      ArgumentError: the phase has no learning rate.
    """
    peak = phase.learning_rate
    if not isinstance(peak, int | float):
        raise ArgumentError(
            f"learning_rate={peak!r}, which only tltf.fit_phases can find" if peak
            else "the phase has no learning_rate",
            where=f"phase {phase.name!r}",
            next_action="pass one, for example Phase('tune', 5, 1e-4)",
        )  # fmt: skip
    top = _optimizer(phase, _schedule(phase, peak, steps))
    if phase.block_lr_decay == 1.0 or not blocks:
        return top
    by_path: dict[str, keras.optimizers.Optimizer] = {}
    for k, layers in enumerate(reversed(list(blocks.values())), start=1):
        rate = peak * phase.block_lr_decay**k
        optimizer = _optimizer(phase, _schedule(phase, rate, steps))
        by_path |= {v.path: optimizer for layer in layers for v in layer.trainable_variables}
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(top, by_path))


def _optimizer(
    phase: Phase, rate: float | keras.optimizers.schedules.LearningRateSchedule
) -> keras.optimizers.Optimizer:
    kind, momentum = average(phase.average)
    options: dict[str, Any] = {"global_clipnorm": phase.clipnorm}
    if kind != "none":
        # The momentum of the mean grows with the steps: training.averaging sets it.
        options |= {"use_ema": True, "ema_momentum": momentum if kind == "ema" else 0.0}
    if phase.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=phase.momentum, **options)
    if phase.optimizer in ("adam", None):
        return Adam(rate, **options)
    optimizer = AdamW(rate, weight_decay=phase.weight_decay or 0.0, **options)
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer


def _schedule(
    phase: Phase, rate: float, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    warmup = math.ceil(phase.warmup * steps)
    if phase.schedule == "constant" and not warmup:
        return rate
    if phase.schedule == "cosine":
        # Warm-up starts at one share of the peak, not at zero: a first step of rate zero
        # would be a step lost, which matters when a phase has twenty of them.
        return keras.optimizers.schedules.CosineDecay(
            rate / (warmup + 1) if warmup else rate,
            decay_steps=max(1, steps - warmup),
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    return WarmUp(rate, warmup, steps if phase.schedule == "linear" else None)


def rates_of(phase: Phase, *, steps: int) -> list[float]:
    """The rate of each of ``steps`` steps as a share of the peak, by the phase's schedule."""
    schedule = _schedule(phase, 1.0, steps)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return [schedule] * steps
    return [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(steps)]


@keras.saving.register_keras_serializable(package="tltf")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise over ``warmup_steps``, then constant, or linear to zero at ``steps``.

    rate(t) = peak * min((t + 1) / (warmup + 1), 1), then for a linear decay
    peak * (steps - t) / (steps - warmup). Keras' own schedules have warm-up only with cosine.
    """

    def __init__(self, peak: float, warmup_steps: int, steps: int | None = None) -> None:
        self.peak, self.warmup_steps, self.steps = peak, warmup_steps, steps

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        t = keras.ops.cast(step, "float32")
        rate = self.peak * keras.ops.minimum((t + 1.0) / (self.warmup_steps + 1.0), 1.0)
        if self.steps is None:
            return rate
        left = (self.steps - t) / max(1.0, self.steps - self.warmup_steps)
        return keras.ops.minimum(rate, self.peak * keras.ops.clip(left, 0.0, 1.0))

    def get_config(self) -> dict[str, object]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "steps": self.steps}


def learning_rates(optimizer: keras.optimizers.Optimizer) -> float:
    """The rate of the next step, of the head where blocks have their own."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        # Keras keeps those of the map first and the default, which is the head's, last.
        optimizer = optimizer.optimizers[-1]
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
