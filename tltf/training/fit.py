"""All phases of a model, one after the other, resumable after any step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tltf.data.batches import Batches
from tltf.errors import ArgumentError
from tltf.interval import SaveInterval, save_interval
from tltf.spec import Phase
from tltf.training import loop, microbatch, movement, phases, ratesearch, states
from tltf.training.aims import BestEpoch, Objective
from tltf.training.caching import Cache, PhaseCache
from tltf.training.guided import Guidance
from tltf.training.interrupts import stop_requests
from tltf.training.phaserun import PhaseRun
from tltf.training.ratesearch import FoundRate
from tltf.training.session import Session
from tltf.training.states import State
from tltf.training.strategies import Distribution


class Stored(Protocol):
    """Answers for further examples by way of stored features; None where none are kept."""

    def logits(self, data: Batches) -> np.ndarray | None:
        """float32 ``[n, C]``."""

    def pooled(self, data: Batches) -> np.ndarray | None:
        """Pooled features float32 ``[n, D]``."""


@dataclass(frozen=True)
class FitResult:
    """What the phases did: one history row per epoch, and each phase's movement check.

    ``stored`` answers for further examples from stored features, if there are any; ``rates`` are
    the learning rates that were left to a search, by phase.
    """

    history: list[dict[str, Any]]
    movements: dict[str, movement.Movement]
    resumed_from: dict[str, Any] | None = None
    steps_done: int = 0
    stored: Stored | None = None
    rates: dict[str, FoundRate] = field(default_factory=dict)


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
    head_solver: str = "gradient",
    callbacks: Iterable[keras.callbacks.Callback] = (),
    cache: Cache | None = None,
    folder: str | Path | None = None,
    resumed: Callable[[dict[str, Any]], None] | None = None,
    rate_found: Callable[[str, FoundRate], None] | None = None,
    save_every: str | float | SaveInterval = "auto",
    progress: bool = True,
    distribution: Distribution | None = None,
    micro_batch: int | str = 0,
    parts_found: Callable[[str, int], None] | None = None,
    guidance: Guidance | None = None,
    seed: int = 0,
) -> FitResult:
    """Trains every phase: enter, train, check what moved, restore the best weights.

    Args:
      model: as for :func:`tltf.enter_phase`; trained in place.
      plan: the phases in order, resolved (no None); with ``learning_rate="auto"`` rehearsals
        before the first step of the phase find it (:mod:`tltf.training.ratesearch`).
      train: :class:`tltf.data.batches.Batches`, or a batched finite ``tf.data.Dataset`` of
        ``(x, y)`` or ``(x, y, sample_weight)``.
      validation: likewise; the best epoch of each phase has the lowest ``val_loss``
        (``loss`` without validation).
      task, loss, label_smoothing, jit_compile: as for :func:`tltf.enter_phase`.
      metrics: makes the metrics anew for each phase; None for the task's own.
      early_stop: epochs without a better ``val_loss`` before a phase ends; None: never.
      restore_best: leave each phase with the weights of its best epoch, not of its last.
      head_solver: ``gradient``, or ``lbfgs``: a phase that trains only a linear head takes it
        to its optimum in one epoch (:mod:`tltf.training.convex`).
      callbacks: further Keras callbacks; they see each phase as one ``fit`` of ``model``, and
        the numbers, texts and arrays they hold as attributes are part of the saved state.
      cache: keep what is frozen in a FeatureStore (``Batches`` only); None computes it anew.
      folder: where states and history.jsonl go, made if need be; the same call again then
        resumes, to the same bits if ``train`` gives the same batches again (:class:`Batches`
        does, a ``tf.data.Dataset`` that shuffles by itself does not). None keeps nothing.
      resumed: told ``{phase, epoch, step}`` before training goes on from a state.
      rate_found: told the phase and its learning rate when a search found it.
      save_every: at most this much work is lost by a kill: ``30s``, ``50steps``, or ``auto``
        (30 s, longer where saving would cost more than 5 % of the time).
      progress: show a progress line on stderr.
      distribution: over which devices, of :func:`tltf.training.strategies.distribution`; ``model``
        was made in its scope, and the batch size is that of the whole.
      micro_batch: most examples that go through the network at once on each device: a batch is
        taken in parts whose gradients are summed, for what does not fit into memory as a whole.
        0 for all; ``auto`` tries before the first step of each phase.
      parts_found: told the phase and its number when ``auto`` has tried.
      guidance: further terms in the loss, made from the model as it is before this call
        (:mod:`tltf.training.guided`); the targets of ``train`` carry what they read.
      seed: of what a phase begins with that is random: the adapters of ``lora``.

    Raises:
      TrainabilityError, DivergenceError, DataError: see the parts.
      InterruptedRun: a signal came; the state is saved when there is a folder.
      MismatchError: the folder's state is of another model or plan.

    Example::

      plan = [
          tltf.Phase("head", 10, 1e-3, unfreeze="none"),
          tltf.Phase("tune", 5, 1e-4, unfreeze="last:2"),
      ]
      tltf.fit_phases(model, plan, train, validation=val)
    """
    objective = Objective(task, loss, metrics, label_smoothing, jit_compile, head_solver)
    data = loop.DatasetEpochs(train) if isinstance(train, tf.data.Dataset) else train
    images = validation.eval_dataset() if isinstance(validation, Batches) else validation
    placed = distribution or Distribution()
    folder = _made(folder)
    interval = save_every if isinstance(save_every, SaveInterval) else save_interval(save_every)
    state = states.newest(folder / "state") if folder else None
    microbatch.begin(placed, micro_batch)
    placed.check_batch(getattr(data, "batch_size", placed.replicas))
    with stop_requests() as stop, placed.scope():
        session = Session(model, folder, interval, stop, progress, rates=ratesearch.read(folder))
        session.rate_found = rate_found or session.rate_found
        session.distribution, session.micro_batch = placed, micro_batch
        session.guidance, session.seed = guidance, seed
        session.parts = microbatch.read(folder)
        session.parts_found = parts_found or session.parts_found
        stored = _phase_cache(cache, session, plan, train, validation)
        if state is not None:
            _with_its_adapters(model, plan, state)
            session.restore(state)
            if resumed is not None:
                resumed(_resumed_from(plan, state))
        movements = {}
        for index, phase in enumerate(plan):
            if state is not None and index < state.position.phase:
                continue
            here = state if state is not None and state.position.phase == index else None
            best = BestEpoch(patience=early_stop, restore=restore_best)
            run = PhaseRun(session, index, phase, objective, best, stored)
            movements[phase.name] = run(data, images, here, list(callbacks))
    begun = _resumed_from(plan, state) if state is not None else None
    return FitResult(session.history, movements, begun, session.steps_done, stored, session.rates)


def _with_its_adapters(model: keras.Model, plan: Sequence[Phase], state: State) -> None:
    """The variables that the model has within the phase of the state; their values come from it."""
    position = state.position
    if position.phase < len(plan) and (position.epoch or position.step):
        phases.freeze(model, plan[position.phase])


def _made(folder: str | Path | None) -> Path | None:
    if folder is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


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


def _resumed_from(plan: Sequence[Phase], state: State) -> dict[str, Any]:
    """``{phase, epoch, step}``: what was done already; behind the last phase, all of that."""
    position, last = state.position, plan[-1]
    if position.phase < len(plan):
        phase, epoch, step = plan[position.phase].name, position.epoch, position.step
    else:
        phase, epoch, step = last.name, sum(r["phase"] == last.name for r in state.history), 0
    return {"phase": phase, "epoch": epoch, "step": step}
