"""One phase from entering to its movement check, with what a resumed run needs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tltf import recipes
from tltf.data.batches import derived_seed
from tltf.errors import ArgumentError, InterruptedRun, TltfError
from tltf.models.initial import seeded_initializers
from tltf.spec import AUTO, Phase
from tltf.training import (
    callbackstate,
    convex,
    freezing,
    guided,
    loop,
    microbatch,
    movement,
    phases,
    ratesearch,
    states,
)
from tltf.training.aims import BestEpoch, Objective
from tltf.training.averaging import Averages
from tltf.training.caching import PhaseCache
from tltf.training.callbacks import FrozenCheck, KeepBest, TrainabilityGuard
from tltf.training.featureepochs import FeatureEpochs
from tltf.training.freezing import Trainability
from tltf.training.optimizers import build_optimizer
from tltf.training.progress import Progress
from tltf.training.recorder import Recorder
from tltf.training.session import Session
from tltf.training.states import Position, State


class PhaseRun:
    """One phase of a session: its callbacks, its saves, its check at the end.

    ``part`` is what is compiled and trained: the whole model, or with stored features the
    tail of it, which shares its variables.
    """

    def __init__(
        self,
        session: Session,
        index: int,
        phase: Phase,
        objective: Objective,
        best_epoch: BestEpoch,
        stored: PhaseCache | None,
    ) -> None:
        self.session, self.index, self.phase = session, index, phase
        self.objective, self.best_epoch, self.stored = objective, best_epoch, stored
        self.callbacks: list[keras.callbacks.Callback] = []
        self.part: keras.Model = session.model
        self.before: movement.Digests = {}

    def __call__(
        self,
        data: loop.EpochData,
        validation: tf.data.Dataset | None,
        state: State | None,
        callbacks: list[keras.callbacks.Callback],
    ) -> movement.Movement:
        self.callbacks = callbacks
        with seeded_initializers(derived_seed(self.session.seed, "lora", self.index)[0]):
            trainability = phases.freeze(self.session.model, self.phase)
        cached = self.stored.phase(self.phase) if self.stored else None
        self.guided = guided.guided(
            self.session.guidance, self.session.model, cached=cached, data=data,
            validation=validation,
        )  # fmt: skip
        self.part, data, validation = self.guided.part, self.guided.data, self.guided.validation
        intended = self.guided.trainability(trainability)
        monitor = "val_loss" if validation is not None else "loss"
        self.best = KeepBest(monitor, patience=self.best_epoch.patience, restore=False)
        # A phase without an epoch left to train restores all the same.
        self.best.set_model(self.part)
        convex_head = self.objective.head_solver == "lbfgs" and not trainability.blocks
        if self.session.micro_batch == AUTO and self.phase.epochs and not convex_head:
            self._find_parts(intended, data)
        if self.phase.learning_rate == AUTO:
            self._find_rate(intended, data, validation, convex_head=convex_head)
        self._compile(intended, data, for_callbacks=bool(callbacks))
        self.averages = Averages(self.part, self.phase, steps_per_epoch=data.steps_per_epoch)
        logging.info("phase %s: %s", self.phase.name, trainability.summary())
        self.before = movement.digests(self.session.model.variables)
        if convex_head and self.phase.epochs:
            if state is not None and state.position.epoch:
                self.before = state.callbacks["before"]
            else:
                self._solve(data, validation, intended)
        else:
            first = self._resume(state, data)
            self._train(data, validation, first, intended, state)
            if self.phase.epochs:
                self.averages.keep()
        outcome = self._check(data, trainability)
        if self.best_epoch.restore and not convex_head:
            self.best.restore()
        self._merge()
        self._save(Position(self.index + 1))
        return outcome

    def _find_parts(self, trainability: Trainability, data: loop.EpochData) -> None:
        """How many examples fit through the network at once, by a step that is taken back."""
        session, given = self.session, self.phase
        if given.name not in session.parts:
            session.distribution.micro_batch = 0
            if given.learning_rate == AUTO:
                usual = self._usual_rate(trainability)
                self.phase = ratesearch.rehearsal_phase(given, usual=usual)
            self._compile(trainability, data, for_callbacks=False)
            session.parts[given.name] = microbatch.fitting(self.part, data, session.distribution)
            microbatch.write(session.folder if session.writes else None, session.parts)
            session.parts_found(given.name, session.parts[given.name])
            self.phase = given
        session.distribution.micro_batch = session.parts[given.name]

    def _find_rate(
        self,
        trainability: Trainability,
        data: loop.EpochData,
        validation: tf.data.Dataset | None,
        *,
        convex_head: bool,
    ) -> None:
        """Replaces the phase by one with a number; a rate that nothing uses is the usual one."""
        found, usual = self.session.rates, self._usual_rate(trainability)
        rate, name, given = usual, self.phase.name, self.phase
        if name in found:
            rate = found[name].learning_rate
        elif given.epochs and not convex_head:
            self.phase = ratesearch.rehearsal_phase(given, usual=usual)
            self._compile(trainability, data, for_callbacks=False)
            found[name] = ratesearch.search(
                self.part,
                given,
                data,
                validation=validation,
                usual=usual,
                nats=self.objective.least_gain,
                distribution=self.session.distribution,
            )
            ratesearch.write(self.session.folder if self.session.writes else None, found)
            self.session.rate_found(name, found[name])
            rate = found[name].learning_rate
        self.phase = dataclasses.replace(given, learning_rate=rate)

    def _usual_rate(self, trainability: Trainability) -> float:
        new, lora = not trainability.blocks, bool(self.phase.lora)
        return recipes.usual_rate(self.phase.optimizer, new=new, lora=lora)

    def _compile(
        self, trainability: Trainability, data: loop.EpochData, *, for_callbacks: bool
    ) -> None:
        model, arguments = self.session.model, self.objective.compile_arguments()
        blocks = freezing.model_blocks(model)
        phases.compile_phase(
            self.part,
            self.phase,
            trainability,
            blocks={name: blocks[name] for name in trainability.blocks},
            steps_per_epoch=data.steps_per_epoch,
            **arguments,
        )
        placed = self.session.distribution
        if placed.strategy is not None or placed.micro_batch:
            placed.prepare(self.part, next(iter(data.train_dataset(0))))
        if for_callbacks and self.part is not model:
            # People's callbacks see the whole model, with the optimizer that is at work.
            model.compile(optimizer=self.part.optimizer, loss=arguments["loss"])

    def _train(
        self,
        data: loop.EpochData,
        validation: tf.data.Dataset | None,
        first: Position,
        trainability: Trainability,
        state: State | None,
    ) -> None:
        callbacks = self.callbacks
        if self.best.finished or first.epoch >= (self.phase.epochs or 0):
            return
        own = [TrainabilityGuard(trainability), FrozenCheck(), *self.averages.callbacks,
               *callbacks, self.best, self._recorder()]  # fmt: skip
        if self.session.progress:
            own.insert(-2, _progress(self.phase, data))
        everything = keras.callbacks.CallbackList(
            own,
            model=self.part,
            add_history=True,
            epochs=self.phase.epochs,
            steps=data.steps_per_epoch,
        )
        self.session.model.stop_training = False
        for callback in callbacks:
            callback.set_model(self.session.model)
        try:
            loop.run_epochs(
                self.part,
                data,
                epochs=self.phase.epochs or 0,
                validation=validation,
                callbacks=everything,
                first_epoch=first.epoch,
                first_step=first.step,
                after_step=self._after_step,
                commit=lambda epoch, step: self._save(Position(self.index, epoch, step)),
                begin=lambda: self._remind(state),
                stop=self.session.stop,
                distribution=self.session.distribution,
                judged=self.averages.shown,
            )
        except TltfError as error:
            error.where = f"phase {self.phase.name}, {error.where}"
            error.kept = self.session.kept()
            if isinstance(error, InterruptedRun):
                error.next_action = "run the same command again to go on from there"
            raise

    def _solve(
        self,
        data: loop.EpochData,
        validation: tf.data.Dataset | None,
        trainability: Trainability,
    ) -> None:
        """The head at its optimum, as one epoch; every stored view counts as an example."""
        if validation is None:
            raise ArgumentError(
                "no validation to choose the regularisation by",
                where="--head_solver=lbfgs",
                next_action="pass validation, or use --head_solver=gradient",
            )
        model, part = self.session.model, self.part
        own = [
            TrainabilityGuard(trainability),
            FrozenCheck(),
            *self.callbacks,
            Recorder(self.phase.name, self.end_epoch),
        ]
        told = keras.callbacks.CallbackList(own, model=part, epochs=1)
        for callback in self.callbacks:
            callback.set_model(model)
        model.stop_training = part.stop_training = False
        told.on_train_begin()
        told.on_epoch_begin(0)
        layer = convex.linear_layer(model)
        features = convex.features_of(part)
        views = data.views if isinstance(data, FeatureEpochs) else 1
        train = convex.collected(data.train_dataset(0, epochs=views), features)
        found = convex.solve(
            train, convex.collected(validation, features), task=self.objective.task
        )
        layer.kernel.assign(found.kernel)
        layer.bias.assign(found.bias)
        evaluate = self.session.distribution.evaluate
        logs = evaluate(part, data.train_dataset(0))
        results = evaluate(part, validation)
        logs |= {f"val_{key}": value for key, value in results.items()}
        logging.info("phase %s: L-BFGS, C=%g", self.phase.name, found.strength)
        told.on_epoch_end(0, logs | {"strength": found.strength})
        told.on_train_end(logs)

    def _check(self, data: loop.EpochData, trainability: Trainability) -> movement.Movement:
        if not self.phase.epochs:
            return movement.Movement(moved=(), without_gradient=())
        outcome = movement.check_movement(
            self.session.model,
            self.before,
            trainability,
            part=self.part,
            batch=lambda: next(iter(data.train_dataset(0))),
            steps=int(states.array(self.part.optimizer.iterations)),
        )
        if outcome.without_gradient:
            logging.info("no gradient reaches %s", ", ".join(outcome.without_gradient))
        return outcome

    def _merge(self) -> None:
        """An ordinary model again; what was compiled with its adapters is compiled anew.

        Adapters that the model was given with stay: they are not of this phase.
        """
        model = self.session.model
        if not (self.phase.lora and self.phase.epochs and phases.merged(model)):
            return
        ordinary = dataclasses.replace(self.phase, lora=0, average="none")
        phases.freeze(model, ordinary)
        if model.compiled:
            # Whoever goes on with a ``fit`` trains whole kernels, which bear less than adapters.
            usual = recipes.usual_rate(ordinary.optimizer, new=False)
            calm = ratesearch.rehearsal_phase(ordinary, usual=usual)
            model.compile(
                optimizer=build_optimizer(calm, steps=1), **self.objective.compile_arguments()
            )

    def _after_step(self, epoch: int, step: int) -> None:
        """Counts the step, and commits a state when it is time or a signal came."""
        self.session.steps_done += 1
        if self.session.save_due:
            self._save(Position(self.index, epoch, step))

    def _recorder(self) -> Recorder:
        return Recorder(self.phase.name, self.end_epoch)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Records a finished epoch; commits it when it is time or a signal came."""
        if self.session.model.stop_training:
            self.part.stop_training = True
        self.session.history.append(row)
        self.session.write_history()
        if self.session.save_due:
            self._save(Position(self.index, row["epoch"], 0))

    def _save(self, position: Position) -> None:
        """Commits a state, if there is a folder; the means stand beside the weights in it."""
        if self.session.folder is not None:
            with self.averages.hidden():
                self._written(self.session.folder, position)

    def _written(self, folder: Path, position: Position) -> None:
        session, part = self.session, self.part
        started = time.monotonic()
        fields, arrays = self.best.state()
        inside = position.phase == self.index
        rows, memory = callbackstate.captured(self.callbacks)
        # Metrics are summed over all processes when they are read, so all read them.
        counted = [states.array(v) for v in part.metrics_variables] if position.step else []
        if not session.writes:
            session.saved_steps = session.steps_done
            return
        states.save(
            folder / "state",
            position=position,
            steps_done=session.steps_done,
            groups={
                "model": session.model.variables,
                "optimizer": part.optimizer.variables if inside else [],
                "metrics": counted,
                "terms": self.guided.own if inside else [],
                "best": [arrays[key] for key in sorted(arrays)] if inside else [],
                "callbacks": memory if inside else [],
            },
            callbacks={"best": fields, "before": self.before, "theirs": rows} if inside else {},
            history=session.history,
        )
        session.saved_at, session.saved_steps = time.monotonic(), session.steps_done
        session.save_cost = session.saved_at - started

    def _remind(self, state: State | None) -> None:
        """People's callbacks, which forgot everything in on_train_begin."""
        if state is None or "theirs" not in state.callbacks or not self.callbacks:
            return
        memory = [v for k, v in sorted(state.tensors.items()) if k.startswith("callbacks/")]
        callbackstate.put_back(self.callbacks, state.callbacks["theirs"], memory)

    def _resume(self, state: State | None, data: loop.EpochData) -> Position:
        """Optimizer, metrics, best weights and digests of a state inside this phase."""
        if state is None or not (state.position.epoch or state.position.step):
            return Position(self.index)
        states.assign(self.part.optimizer.variables, state, "optimizer")
        states.assign(self.guided.own, state, "terms")
        if state.position.step:
            if self.session.distribution.strategy is None:
                _build_metrics(self.part, data)
            states.assign(self.part.metrics_variables, state, "metrics")
            # Building them may have drawn from a seed generator.
            states.assign(self.session.model.variables, state, "model")
        best = {k: v for k, v in state.tensors.items() if k.startswith("best/")}
        self.best.set_state(state.callbacks["best"], best)
        self.before = state.callbacks["before"]
        return state.position


def _build_metrics(model: keras.Model, data: loop.EpochData) -> None:
    """Keras makes metric variables when the first batch comes; give it one."""
    batch = next(iter(data.train_dataset(0)))
    model.test_on_batch(*batch)
    model.reset_metrics()


def _progress(phase: Phase, data: loop.EpochData) -> Progress:
    return Progress(
        phase.name,
        epochs=phase.epochs or 0,
        steps=data.steps_per_epoch,
        batch_size=getattr(data, "batch_size", 1),
    )
