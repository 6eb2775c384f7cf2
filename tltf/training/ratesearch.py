"""A phase's learning rate by a sweep before its first step (``learning_rate="auto"``).

The sweep raises the rate over the phase's own batches, on stored features where there are any,
and puts weights, optimizer and seeds back bit for bit (:class:`~tltf.LearningRateFinder`). What
was found is written to ``rates.json``, so that a resumed run goes on with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tltf import storage
from tltf.spec import AUTO, Phase
from tltf.training import loop
from tltf.training.callbacks import LearningRateFinder
from tltf.training.strategies import Distribution

FILE = "rates.json"
LOW, HIGH, SMOOTHING = 1e-5, 1.0, 0.8
STEPS = (30, 100)
LEAST_FALL, RISE = 0.1, 1.5
SAFE = 10.0
WITHIN = 10.0


@dataclass(frozen=True, kw_only=True)
class FoundRate:
    """What a sweep found.

    Args:
      learning_rate: the peak rate for the phase.
      reason: in words.
      rates: learning rates of the sweep, rising.
      losses: smoothed training losses at them.
    """

    learning_rate: float
    reason: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """For ``rates.json`` and ``report.json``."""
        return dataclasses.asdict(self)


def wanted(phase: Phase) -> bool:
    """Whether the phase leaves its rate to a sweep."""
    return phase.learning_rate == AUTO and bool(phase.epochs)


def sweep_phase(phase: Phase) -> Phase:
    """The phase as the sweep compiles it: one rate, without schedule."""
    return dataclasses.replace(
        phase, learning_rate=LOW, schedule="constant", warmup=0.0, block_lr_decay=1.0
    )


def search(
    model: keras.Model,
    phase: Phase,
    data: loop.EpochData,
    *,
    usual: float,
    distribution: Distribution,
) -> FoundRate:
    """Sweeps the rate of a model that is compiled for :func:`sweep_phase`.

    Args:
      model: unchanged afterwards; to be compiled again.
      phase: with its epochs.
      data: its training batches.
      usual: the rate that is taken without a sweep; what is found stays within a factor of
        ``WITHIN`` of it.
      distribution: over which devices.
    """
    steps = min(STEPS[1], max(STEPS[0], (phase.epochs or 0) * data.steps_per_epoch // 2))
    finder = LearningRateFinder(LOW, HIGH, steps=steps, smoothing=SMOOTHING)
    epochs = math.ceil(steps / data.steps_per_epoch)
    iterator = distribution.iterator(data.train_dataset(0, epochs=epochs))
    step = distribution.train_function(model)
    finder.set_model(model)
    model.stop_training = False
    finder.on_train_begin()
    for batch in range(steps):
        finder.on_train_batch_begin(batch)
        finder.on_train_batch_end(batch, step(iterator))
        if model.stop_training:
            break
    finder.on_train_end()
    return chosen(finder.rates, finder.losses, usual=usual)


def chosen(rates: Sequence[float], losses: Sequence[float], *, usual: float) -> FoundRate:
    """The rate that a curve suggests.

    Where the loss falls by ``LEAST_FALL`` of its beginning, the rate of the steepest fall, but
    not above a tenth of where it then rises; where it hardly falls, as in a phase that begins
    near its minimum, a tenth of where it rises to ``RISE`` times its minimum.
    """
    good = np.isfinite(np.asarray(losses, float))
    x, y = np.asarray(rates, float)[good], np.asarray(losses, float)[good]
    lowest = int(y.argmin())
    risen = np.flatnonzero(y[lowest:] > RISE * y[lowest])
    limit = float(x[lowest + risen[0]]) if len(risen) else float(x[-1])
    fall = (y[0] - y[lowest]) / max(y[0], 1e-12)
    if fall >= LEAST_FALL and lowest > 1:
        slope = np.gradient(y[: lowest + 1], np.log(x[: lowest + 1]))
        rate, why = float(x[int(slope.argmin())]), "the loss falls fastest there"
        if rate > limit / SAFE:
            rate, why = limit / SAFE, f"a tenth of {limit:.2g}, where the loss rises again"
    else:
        rate, why = limit / SAFE, f"a tenth of {limit:.2g}, up to where the loss stays low"
    bounded = min(max(rate, usual / WITHIN), usual * WITHIN)
    if bounded != rate:
        why = f"the sweep says {rate:.2g}; kept within ten times of the usual {usual:.2g}"
    return FoundRate(
        learning_rate=float(f"{bounded:.2g}"),
        reason=f"{why}, in a sweep of {len(x)} batches",
        rates=tuple(float(f"{v:.6g}") for v in x),
        losses=tuple(float(f"{v:.6g}") for v in y),
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
    return {
        name: FoundRate(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for name, row in rows.items()
    }
