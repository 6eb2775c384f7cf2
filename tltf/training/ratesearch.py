"""A phase's learning rate by rehearsals before its first step (``learning_rate="auto"``).

A rehearsal is the phase in small: its first batches, its warm-up and schedule drawn together to
fewer steps, at one peak rate, and then the loss on validation. Weights, optimizer and seeds are
put back bit for bit (:class:`~tltf.LearningRateFinder`), so every rate is tried from the same
start on the same batches, and differences between batches do not count.

Why not the one sweep of rising rates, read off its training loss: where a phase begins near its
minimum, as one that tunes behind a trained head does, the training loss has nothing left to
fall, and its first wobble says nothing about the rate that generalises best.

The search begins at the usual rate, goes up and then down by a third of a decade at a time as
long as that clearly helps, and so stays at the usual rate where nothing does. What was found is
written to ``rates.json``, so that a resumed run goes on with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.spec import AUTO, Phase
from tltf.training import loop
from tltf.training.callbacks import LearningRateFinder
from tltf.training.optimizers import rates_of
from tltf.training.strategies import Distribution

FILE = "rates.json"
STEPS = (10, 100)
PER_DECADE, DECADES = 3, 1
BETTER = 0.05
"""Share by which the loss has to be lower before another rate is taken."""
NATS = 2.0
"""And the least gain in log-likelihood over all validation examples together, where the loss is a
cross-entropy: a likelihood ratio that one free parameter reaches by chance in 5 of 100 cases. On
two dozen examples a mean loss of 0.06 or of 0.01 is often the luck of one of them."""


@dataclass(frozen=True, kw_only=True)
class FoundRate:
    """What the rehearsals found.

    Args:
      learning_rate: the peak rate for the phase.
      reason: in words.
      rates: that were rehearsed, rising.
      losses: after the rehearsal of each; infinite where it diverged.
      monitor: which losses, ``val_loss`` or ``loss``.
    """

    learning_rate: float
    reason: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    monitor: str = "val_loss"

    def as_dict(self) -> dict[str, Any]:
        """For ``rates.json`` and ``report.json``; a loss that is not finite is None."""
        losses = tuple(loss if math.isfinite(loss) else None for loss in self.losses)
        return dataclasses.asdict(self) | {"losses": losses}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> FoundRate:
        """What :meth:`as_dict` gave, from JSON."""
        losses = tuple(math.inf if loss is None else loss for loss in row["losses"])
        return cls(**{**row, "rates": tuple(row["rates"]), "losses": losses})


def wanted(phase: Phase) -> bool:
    """Whether the phase leaves its rate to a search."""
    return phase.learning_rate == AUTO and bool(phase.epochs)


def rehearsal_phase(phase: Phase, *, usual: float) -> Phase:
    """The phase as a rehearsal compiles it: one rate, which the rehearsal sets at each step."""
    return dataclasses.replace(
        phase,
        learning_rate=usual,
        schedule="constant",
        warmup=0.0,
        block_lr_decay=1.0,
        average="none",
    )


def rehearsal_steps(phase: Phase, steps_per_epoch: int) -> int:
    """Half of the phase's steps, within :data:`STEPS`."""
    low, high = STEPS
    return min(high, max(low, (phase.epochs or 0) * steps_per_epoch // 2))


class _Rehearsal(LearningRateFinder):
    """The finder's keeping and restoring, with rates that were given."""

    def __init__(self, course: Sequence[float]) -> None:
        super().__init__(steps=len(course), smoothing=0.0)
        self.course = course

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_train_batch_begin(batch, logs)
        self.rates[-1] = self.model.optimizer.learning_rate = self.course[batch]


def search(
    model: keras.Model,
    phase: Phase,
    data: loop.EpochData,
    *,
    validation: tf.data.Dataset | None,
    usual: float,
    nats: float,
    distribution: Distribution,
) -> FoundRate:
    """Finds the rate of a model that is compiled for :func:`rehearsal_phase`.

    Args:
      model: unchanged afterwards; to be compiled again.
      phase: with its epochs.
      data: its training batches; every rehearsal has the first ones.
      validation: judges; without it the mean training loss of a rehearsal's last quarter does.
      usual: the rate that is taken where no other is clearly better.
      nats: by how much the loss of all examples that judge has to be lower together, besides the
        share :data:`BETTER` of their mean.
      distribution: over which devices.
    """
    steps = rehearsal_steps(phase, data.steps_per_epoch)
    shape = rates_of(phase, steps=steps)
    step = distribution.train_function(model)

    def rehearsed(rate: float) -> float:
        finder = _Rehearsal([rate * part for part in shape])
        epochs = math.ceil(steps / data.steps_per_epoch)
        iterator = distribution.iterator(data.train_dataset(0, epochs=epochs))
        finder.set_model(model)
        finder.on_train_begin()
        try:
            for batch in range(steps):
                finder.on_train_batch_begin(batch)
                finder.on_train_batch_end(batch, step(iterator))
                if not math.isfinite(finder.losses[-1]):
                    return math.inf
            if validation is None:
                return float(np.mean(finder.losses[-max(1, steps // 4) :]))
            return float(distribution.evaluate(model, validation)["loss"])
        finally:
            finder.on_train_end()

    monitor = "val_loss" if validation is not None else "loss"
    judges = getattr(data, "batch_size", 1) * max(1, steps // 4)
    if validation is not None:
        judges = sum(len(y) for _, y, *_ in validation)
    return best_rate(rehearsed, usual=usual, least=nats / judges, monitor=monitor, steps=steps)


def best_rate(
    rehearsed: Callable[[float], float], *, usual: float, least: float, monitor: str, steps: int
) -> FoundRate:
    """A walk over the rates ``usual * 10^(k / PER_DECADE)``, up and then down from k = 0.

    A step to the next rate is taken when its loss is below the present one by more than
    max(BETTER * loss, ``least``); the walk ends where it is not, and after :data:`DECADES`.
    From a rate that diverged it goes down.

    Args:
      rehearsed: a rate to its loss; not finite where it diverged.
      usual: where the walk begins.
      least: see above, in the unit of the loss.
      monitor, steps: of the rehearsals, to be told.
    """
    found: dict[int, float] = {}

    def loss(k: int) -> float:
        if k not in found:
            value = rehearsed(_rate(usual, k))
            found[k] = value if math.isfinite(value) else math.inf
        return found[k]

    def better(k: int, best: int) -> bool:
        if not math.isfinite(loss(best)):
            return k < best
        return loss(best) - loss(k) > max(BETTER * loss(best), least)

    best = 0
    for direction in (1, -1):
        while abs(best) < PER_DECADE * DECADES and best * direction >= 0:
            if not better(best + direction, best):
                break
            best += direction
    loss(best)
    return FoundRate(
        learning_rate=_rate(usual, best),
        reason=_reason(found, best, usual=usual, monitor=monitor, steps=steps),
        rates=tuple(_rate(usual, k) for k in sorted(found)),
        losses=tuple(float(f"{found[k]:.6g}") for k in sorted(found)),
        monitor=monitor,
    )


def _rate(usual: float, k: int) -> float:
    return float(f"{usual * 10 ** (k / PER_DECADE):.2g}")


def _reason(
    found: Mapping[int, float], best: int, *, usual: float, monitor: str, steps: int
) -> str:
    rehearsals = f"in {len(found)} rehearsals of {steps} steps"
    if best == 0:
        return f"the usual rate; no other has a clearly lower {monitor} {rehearsals}"
    return (
        f"{monitor} {found[best]:.3g} against {found[0]:.3g} at the usual {usual:.2g}, {rehearsals}"
    )


def write(folder: Path | None, found: dict[str, FoundRate]) -> None:
    """Keeps what was found, by phase; nothing without a folder."""
    if folder is not None:
        storage.write_json(folder / FILE, {name: rate.as_dict() for name, rate in found.items()})


def read(folder: Path | None) -> dict[str, FoundRate]:
    """What an earlier start of this run found."""
    if folder is None or not (folder / FILE).exists():
        return {}
    rows = storage.read_json(folder / FILE)
    return {name: FoundRate.from_dict(row) for name, row in rows.items()}
