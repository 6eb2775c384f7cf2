"""All phases of a model, one after the other, resumable after any step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tltf import storage
from tltf.errors import InterruptedRun, TltfError
from tltf.spec import Phase
from tltf.training import loop, movement, phases, states
from tltf.training.callbacks import FrozenCheck, KeepBest, TrainabilityGuard, finite
from tltf.training.freezing import Trainability
from tltf.training.interrupts import StopRequest, stop_requests
from tltf.training.optimizers import learning_rates
from tltf.training.progress import Progress
from tltf.training.states import Position, State

SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class FitResult:
    """What the phases did: one history row per epoch, and each phase's movement check."""

    history: list[dict[str, Any]]
    movements: dict[str, movement.Movement]
    resumed_from: dict[str, Any] | None = None


@dataclass
class _Session:
    """What the phases share while they run."""

    model: keras.Model
    names: list[str]
    folder: Path | None
    save_seconds: float
    stop: StopRequest
    history: list[dict[str, Any]] = field(default_factory=list)
    steps_done: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    def write_history(self) -> None:
        if self.folder is not None:
            rows = "".join(json.dumps(row) + "\n" for row in self.history)
            storage.write_text(self.folder / "history.jsonl", rows)


def fit_phases(
    model: keras.Model,
    plan: Sequence[Phase],
    train: loop.EpochData | tf.data.Dataset,
    *,
    validation: tf.data.Dataset | None = None,
    task: str = "single_label",
    loss: keras.losses.Loss | str | None = None,
    metrics: Callable[[], list[keras.metrics.Metric]] | None = None,
    label_smoothing: float = 0.0,
    early_stop: int | None = None,
    jit_compile: bool = False,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    folder: str | Path | None = None,
    save_seconds: float = SAVE_SECONDS,
    batch_size: int = 0,
    progress: bool = True,
) -> FitResult:
    """Trains every phase: enter, train, check what moved, restore the best weights.

    Args:
      model: as for :func:`tltf.enter_phase`; trained in place.
      plan: the phases in order, resolved (no None).
      train: :class:`tltf.data.batches.Batches`, or a batched finite ``tf.data.Dataset`` of
        ``(x, y)`` or ``(x, y, sample_weight)``.
      validation: batched, finite; the best epoch of each phase has the lowest ``val_loss``
        (``loss`` without validation).
      task, loss, label_smoothing, jit_compile: as for :func:`tltf.enter_phase`.
      metrics: makes the metrics anew for each phase; None for the task's own.
      early_stop: epochs without a better ``val_loss`` before a phase ends; None: never.
      callbacks: further Keras callbacks; they see each phase as one ``fit``.
      folder: where states and history.jsonl go; the same call again then resumes. None keeps
        nothing.
      save_seconds: at most this much work is lost by a kill.
      batch_size: for the rate that the progress line shows.
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
    data = loop.DatasetEpochs(train) if isinstance(train, tf.data.Dataset) else train
    folder = Path(folder) if folder is not None else None
    state = states.newest(folder / "state") if folder else None
    with stop_requests() as stop:
        session = _Session(model, [p.name for p in plan], folder, save_seconds, stop)
        movements = {}
        if state is not None:
            _restore_model(session, state)
        for index, phase in enumerate(plan):
            if state is not None and index < state.position.phase:
                continue
            here = state if state is not None and state.position.phase == index else None
            enter = {
                "task": task,
                "loss": loss,
                "metrics": metrics() if metrics else None,
                "label_smoothing": label_smoothing,
                "jit_compile": jit_compile,
            }
            shown = [_progress(phase, data, batch_size)] if progress else []
            run = _PhaseRun(session, index, phase, data, validation, early_stop)
            movements[phase.name] = run(here, enter, [*callbacks, *shown])
    return FitResult(session.history, movements, _resumed_from(session, state))


class _PhaseRun:
    """One phase of a session: its callbacks, its saves, its check at the end."""

    def __init__(
        self,
        session: _Session,
        index: int,
        phase: Phase,
        data: loop.EpochData,
        validation: tf.data.Dataset | None,
        early_stop: int | None,
    ) -> None:
        self.session, self.index, self.phase, self.data = session, index, phase, data
        self.validation = validation
        monitor = "val_loss" if validation is not None else "loss"
        self.best = KeepBest(monitor, patience=early_stop, restore=False)
        self.before: movement.Digests = {}

    def __call__(
        self,
        state: State | None,
        enter: Mapping[str, Any],
        callbacks: list[keras.callbacks.Callback],
    ) -> movement.Movement:
        model, first = self.session.model, Position(self.index)
        trainability = phases.enter_phase(
            model, self.phase, steps_per_epoch=self.data.steps_per_epoch, **enter
        )
        self.before = movement.digests(model.variables)
        if state is not None and (state.position.epoch or state.position.step):
            first = state.position
            self._restore(state)
        logging.info("phase %s: %s", self.phase.name, trainability.summary())
        self._train(first, trainability, callbacks)
        outcome = self._check(trainability)
        self.best.restore()
        self._save(Position(self.index + 1))
        return outcome

    def _train(
        self,
        first: Position,
        trainability: Trainability,
        callbacks: list[keras.callbacks.Callback],
    ) -> None:
        model = self.session.model
        everything = keras.callbacks.CallbackList(
            [TrainabilityGuard(trainability), FrozenCheck(), *callbacks, self.best,
             _Recorder(self)],
            model=model,
            add_history=True,
            epochs=self.phase.epochs,
            steps=self.data.steps_per_epoch,
        )  # fmt: skip
        if self.best.finished:
            return
        try:
            loop.run_epochs(
                model,
                self.data,
                epochs=self.phase.epochs or 0,
                validation=self.validation,
                callbacks=everything,
                first_epoch=first.epoch,
                first_step=first.step,
                after_step=self._after_step,
                stop=self.session.stop,
            )
        except TltfError as error:
            error.where = f"phase {self.phase.name}, {error.where}"
            error.kept = self._kept()
            if isinstance(error, InterruptedRun):
                error.next_action = "run the same command again to go on from there"
            raise

    def _check(self, trainability: Trainability) -> movement.Movement:
        if not self.phase.epochs:
            return movement.Movement(moved=(), without_gradient=())
        batch = next(iter(self.data.train_dataset(0)))
        outcome = movement.check_movement(
            self.session.model, self.before, trainability, batch=(*batch, None, None)[:3]
        )
        if outcome.without_gradient:
            logging.info("no gradient reaches %s", ", ".join(outcome.without_gradient))
        return outcome

    def _after_step(self, epoch: int, step: int) -> None:
        """Saves inside an epoch when it is time or a signal came; epoch ends save themselves."""
        self.session.steps_done += 1
        due = time.monotonic() - self.session.saved_at >= self.session.save_seconds
        if step and (due or self.session.stop):
            self._save(Position(self.index, epoch, step))

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Records a finished epoch; commits it when it is time or a signal came."""
        self.session.history.append(row)
        self.session.write_history()
        due = time.monotonic() - self.session.saved_at >= self.session.save_seconds
        if due or self.session.stop:
            self._save(Position(self.index, row["epoch"], 0))

    def _save(self, position: Position) -> None:
        session = self.session
        if session.folder is None:
            return
        fields, arrays = self.best.state()
        model = session.model
        inside = position.phase == self.index
        states.save(
            session.folder / "state",
            position=position,
            steps_done=session.steps_done,
            groups={
                "model": model.variables,
                "optimizer": model.optimizer.variables if inside else [],
                "metrics": model.metrics_variables if position.step else [],
                "best": [arrays[key] for key in sorted(arrays)] if inside else [],
            },
            callbacks={"best": fields, "before": self.before} if inside else {},
            history=session.history,
        )
        session.saved_at = time.monotonic()

    def _restore(self, state: State) -> None:
        model = self.session.model
        states.assign(model.optimizer.variables, state, "optimizer")
        if state.position.step:
            _build_metrics(model, self.data)
            states.assign(model.metrics_variables, state, "metrics")
            # Building them may have drawn from a seed generator.
            states.assign(model.variables, state, "model")
        best = {k: v for k, v in state.tensors.items() if k.startswith("best/")}
        self.best.set_state(state.callbacks["best"], best)
        self.before = state.callbacks["before"]

    def _kept(self) -> str:
        folder = self.session.folder
        if folder is None:
            return "nothing: no folder was given"
        state = states.newest(folder / "state")
        return f"state of step {state.steps_done}" if state else "nothing yet"


class _Recorder(keras.callbacks.Callback):
    """Turns the logs of an epoch into its history row."""

    def __init__(self, run: _PhaseRun) -> None:
        super().__init__()
        self.run = run

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        row: dict[str, Any] = {"phase": self.run.phase.name, "epoch": epoch + 1}
        row |= {key: finite(value) for key, value in (logs or {}).items()}
        row["learning_rate"] = learning_rates(self.model.optimizer)
        row["epoch_seconds"] = round(time.monotonic() - self._started, 3)
        self.run.end_epoch(row)


def _restore_model(session: _Session, state: State) -> None:
    states.assign(session.model.variables, state, "model")
    session.history = [dict(row) for row in state.history]
    session.steps_done = state.steps_done
    session.write_history()


def _build_metrics(model: keras.Model, data: loop.EpochData) -> None:
    """Keras makes metric variables when the first batch comes; give it one."""
    batch = next(iter(data.train_dataset(0)))
    model.test_on_batch(*batch)
    model.reset_metrics()


def _progress(phase: Phase, data: loop.EpochData, batch_size: int) -> Progress:
    return Progress(
        phase.name,
        epochs=phase.epochs or 0,
        steps=data.steps_per_epoch,
        batch_size=batch_size or getattr(data, "batch_size", 1),
    )


def _resumed_from(session: _Session, state: State | None) -> dict[str, Any] | None:
    if state is None:
        return None
    phase = min(state.position.phase, len(session.names) - 1)
    return {
        "phase": session.names[phase],
        "epoch": state.position.epoch,
        "step": state.position.step,
    }
