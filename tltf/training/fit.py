"""All phases of a model, one after the other, resumable after any step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tltf.data.batches import Batches
from tltf.errors import ArgumentError
from tltf.spec import Phase
from tltf.training import loop, movement, states
from tltf.training.caching import Cache, PhaseCache
from tltf.training.interrupts import stop_requests
from tltf.training.phaserun import BestEpoch, Objective, PhaseRun, Session
from tltf.training.states import State

SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class FitResult:
    """What the phases did: one history row per epoch, and each phase's movement check."""

    history: list[dict[str, Any]]
    movements: dict[str, movement.Movement]
    resumed_from: dict[str, Any] | None = None


def fit_phases(
    model: keras.Model,
    plan: Sequence[Phase],
    train: loop.EpochData | tf.data.Dataset,
    *,
    validation: Batches | tf.data.Dataset | None = None,
    task: str = "single_label",
    loss: keras.losses.Loss | str | None = None,
    metrics: Callable[[], list[keras.metrics.Metric]] | None = None,
    label_smoothing: float = 0.0,
    early_stop: int | None = None,
    restore_best: bool = True,
    jit_compile: bool = False,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    cache: Cache | None = None,
    folder: str | Path | None = None,
    save_seconds: float = SAVE_SECONDS,
    progress: bool = True,
) -> FitResult:
    """Trains every phase: enter, train, check what moved, restore the best weights.

    Args:
      model: as for :func:`tltf.enter_phase`; trained in place.
      plan: the phases in order, resolved (no None).
      train: :class:`tltf.data.batches.Batches`, or a batched finite ``tf.data.Dataset`` of
        ``(x, y)`` or ``(x, y, sample_weight)``.
      validation: likewise; the best epoch of each phase has the lowest ``val_loss``
        (``loss`` without validation).
      task, loss, label_smoothing, jit_compile: as for :func:`tltf.enter_phase`.
      metrics: makes the metrics anew for each phase; None for the task's own.
      early_stop: epochs without a better ``val_loss`` before a phase ends; None: never.
      restore_best: leave each phase with the weights of its best epoch, not of its last.
      callbacks: further Keras callbacks; they see each phase as one ``fit`` of ``model``.
      cache: keep what is frozen in a FeatureStore (``Batches`` only); None computes it anew.
      folder: where states and history.jsonl go; the same call again then resumes. None keeps
        nothing.
      save_seconds: at most this much work is lost by a kill.
      progress: show a progress line on stderr.

    Raises:
      TrainabilityError, DivergenceError, DataError: see the parts.
      InterruptedRun: a signal came; the state is saved when there is a folder.

    Example::

      plan = [
          tltf.Phase("head", 10, 1e-3, unfreeze="none"),
          tltf.Phase("tune", 5, 1e-4, unfreeze="last:2"),
      ]
      tltf.fit_phases(model, plan, train, validation=val)
    """
    objective = Objective(task, loss, metrics, label_smoothing, jit_compile)
    data = loop.DatasetEpochs(train) if isinstance(train, tf.data.Dataset) else train
    images = validation.eval_dataset() if isinstance(validation, Batches) else validation
    folder = Path(folder) if folder is not None else None
    state = states.newest(folder / "state") if folder else None
    with stop_requests() as stop:
        session = Session(model, folder, save_seconds, stop, progress)
        stored = _phase_cache(cache, session, plan, train, validation)
        if state is not None:
            session.restore(state)
        movements = {}
        for index, phase in enumerate(plan):
            if state is not None and index < state.position.phase:
                continue
            here = state if state is not None and state.position.phase == index else None
            best = BestEpoch(patience=early_stop, restore=restore_best)
            run = PhaseRun(session, index, phase, objective, best, stored)
            movements[phase.name] = run(data, images, here, list(callbacks))
    return FitResult(session.history, movements, _resumed_from(plan, state))


def _phase_cache(
    cache: Cache | None,
    session: Session,
    plan: Sequence[Phase],
    train: loop.EpochData | tf.data.Dataset,
    validation: Batches | tf.data.Dataset | None,
) -> PhaseCache | None:
    if cache is None:
        return None
    if not (isinstance(train, Batches) and isinstance(validation, Batches)):
        raise ArgumentError(
            "a cache needs to know the examples",
            where="fit_phases",
            next_action="pass tltf.data.batches.Batches for train and validation, or no cache",
        )
    return PhaseCache(
        cache,
        session.model,
        plan=plan,
        train=train,
        validation=validation,
        progress=session.progress,
    )


def _resumed_from(plan: Sequence[Phase], state: State | None) -> dict[str, Any] | None:
    if state is None:
        return None
    phase = plan[min(state.position.phase, len(plan) - 1)]
    return {"phase": phase.name, "epoch": state.position.epoch, "step": state.position.step}
