"""Tuning as a candidate: trained where the stacked probe was fitted, judged where it was judged.

A candidate is trained on the fitting part of a fold from the head that was solved there, and is
asked about the held-out part, whose examples it shares with the probe. It is kept only if its
log-loss there is lower by more than the standard error of the paired differences. Half-way between
the probe and its own end (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", eq. 2)
it is often better than at either; that is asked as well, from the same training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tltf import tensorfile
from tltf.data.batches import Batches
from tltf.data.manifest import Record
from tltf.probes import stack
from tltf.probes.linear import losses
from tltf.rundir import RunDir
from tltf.spec import Phase
from tltf.stages.stacking import Pool, Probed, set_head
from tltf.training.caching import Cache
from tltf.training.fit import FitResult, fit_phases

Say = Callable[[str], None]
Training = Callable[[Sequence[Record]], Batches]

FOLDER = "candidates"
LOGITS = "logits.safetensors"
MIXES = (0.5, 1.0)
"""How far from the probe's weights to those of the end of tuning."""
HOPELESS = 2.0
"""After a fold, a candidate that is worse by so many standard errors is dropped."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How one candidate did beside the probe, on the examples that both predicted out of fold.

    Args:
      name: for the report.
      mix: see :data:`MIXES`.
      logits: ``[n, C]``, NaN where it was not asked.
      gain: mean of the probe's loss less its own, in nats an example.
      error: standard error of that mean.
      n: how many examples.
    """

    name: str
    mix: float
    logits: np.ndarray
    gain: float
    error: float
    n: int

    @property
    def helps(self) -> bool:
        """Whether it is shown to help."""
        return self.gain > self.error > 0


class Tuner:
    """Trains the upper blocks of the probe's network, as often as it is asked.

    Args:
      probe: the stacked probe; its model is trained in place, from its own weights each time.
      pool: the labelled examples.
      phase: how to tune, resolved.
      training: from records to batches with augmentation, for training.
      plain: from records to batches as they are.
      cache: for the boundary's rows; None computes them anew.
      run: folders below it keep states, so that a kill costs little.
      settings: further arguments of :func:`tltf.training.fit.fit_phases`.
    """

    def __init__(
        self,
        probe: Probed,
        pool: Pool,
        *,
        phase: Phase,
        training: Training,
        plain: Training,
        cache: Cache | None,
        run: RunDir,
        settings: dict[str, Any],
    ) -> None:
        self.probe, self.pool, self.phase = probe, pool, phase
        self.training, self.plain, self.cache = training, plain, cache
        self.folder = run.path / FOLDER
        self.settings = settings
        self._columns = probe.rows.columns(probe.matrix)
        self._start = arrays(probe.model)

    def judged(self, name: str, fit: np.ndarray, held: np.ndarray) -> dict[float, np.ndarray]:
        """Logits of the held-out examples by mix, after a training on the others."""
        kept = self.folder / name / LOGITS
        if kept.is_file():
            tensors, _ = tensorfile.read_tensors(kept)
            return {mix: tensors[f"mix_{mix}"] for mix in MIXES}
        done = self.trained(name, fit, held)
        asked = self.plain([self.pool.records[i] for i in held])
        end = arrays(self.probe.model)
        start = self._beginning(fit)
        found = {}
        for mix in MIXES:
            assign(self.probe.model, between(start, end, mix))
            found[mix] = answers(self.probe.model, done, asked)
        tensorfile.write_tensors(kept, {f"mix_{mix}": x for mix, x in found.items()})
        return found

    def trained(self, name: str, fit: np.ndarray, held: np.ndarray) -> FitResult:
        """Tunes on some examples, from the probe that was fitted on them."""
        assign(self.probe.model, self._beginning(fit))
        records = self.pool.records
        return fit_phases(
            self.probe.model,
            [self.phase],
            self.training([records[i] for i in fit]),
            validation=self.plain([records[i] for i in held]),
            restore_best=False,
            cache=self.cache,
            folder=self.folder / name,
            **self.settings,
        )

    def finish(self, mix: float) -> FitResult:
        """The model trained on all that it is to be fitted on, and left at ``mix``."""
        pool = self.pool
        whole = len(pool.folds) > 1
        done = self.trained("final" if whole else "fold-0", pool.final, pool.folds[0][1])
        end = arrays(self.probe.model)
        assign(self.probe.model, between(self._beginning(pool.final), end, mix))
        return done

    def forget(self) -> None:
        """Leaves the probe's model as it was."""
        assign(self.probe.model, self._start)
        set_head(self.probe.model, self.probe.found.head)

    def _beginning(self, fit: np.ndarray) -> list[np.ndarray]:
        """The pretrained weights, and the head that these examples alone give."""
        found = self.probe.found
        head = stack.refitted(self._columns, self.pool.targets, found.members, found.taps, fit)
        assign(self.probe.model, self._start)
        set_head(self.probe.model, head)
        return arrays(self.probe.model)


def try_tuning(tuner: Tuner, *, folds: int, say: Say) -> list[Tried]:
    """Judges tuning on some of the folds; an evident loser is dropped after the first.

    Args:
      tuner: what is tried.
      folds: on how many of the pool's folds at most.
      say: told what came out.
    """
    pool = tuner.pool
    logits = {mix: np.full(pool.targets.values.shape, np.nan) for mix in MIXES}
    tried: list[Tried] = []
    for k, (fit, held) in enumerate(pool.folds[:folds]):
        for mix, answered in tuner.judged(f"fold-{k}", fit, held).items():
            logits[mix][held] = answered
        tried = [compared(f"tuned, {mix:g}", mix, logits[mix], tuner) for mix in MIXES]
        if all(one.gain < -HOPELESS * one.error for one in tried):
            break
    best = max(tried, key=lambda one: one.gain)
    judged = np.isfinite(best.logits).all(axis=1).sum()
    verdict = "kept" if best.helps else "not kept: that is not shown to help"
    say(
        f"tuning: {best.gain:+.3f} nats an example beside the stacked probe"
        f" (standard error {best.error:.3f}, n={judged}, {best.mix:g} of the way): {verdict}"
    )
    return tried


def clear(run: RunDir) -> None:
    """Removes what candidates kept in order to go on."""
    folder = run.path / FOLDER
    for below in folder.glob("*/"):
        RunDir(below).clear()
        (below / LOGITS).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            below.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def compared(name: str, mix: float, logits: np.ndarray, tuner: Tuner) -> Tried:
    """A candidate beside the probe, example by example."""
    found, targets = tuner.probe.found, tuner.pool.targets
    here = found.scored[np.isfinite(logits[found.scored]).all(axis=1)]
    ours = losses(found.logits[here], targets[here])
    theirs = losses(logits[here], targets[here])
    gains = (ours - theirs) * (targets.weights[here] / targets.weights[here].mean())
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
    return Tried(
        name=name, mix=mix, logits=logits, gain=float(gains.mean()), error=error, n=len(here)
    )


def answers(model: keras.Model, done: FitResult, data: Batches) -> np.ndarray:
    """Logits of the model as it is now, from stored rows where there are any."""
    found = done.stored.logits(data) if done.stored else None
    if found is not None:
        return found
    with data.naming_unreadable():
        return np.concatenate([np.asarray(model(x, training=False)) for x, _, _ in
                               data.eval_dataset()])  # fmt: skip


def arrays(model: keras.Model) -> list[np.ndarray]:
    """Every variable of a model, copied."""
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.variables]


def assign(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Sets every variable of a model."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def between(start: Sequence[np.ndarray], end: Sequence[np.ndarray], mix: float) -> list[np.ndarray]:
    """``(1 - mix) start + mix end`` of floats; what counts or seeds is the end's."""
    return [
        ((1 - mix) * a + mix * b).astype(a.dtype) if a.dtype.kind == "f" else b
        for a, b in zip(start, end, strict=True)
    ]
