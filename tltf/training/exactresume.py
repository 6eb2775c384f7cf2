"""ExactResume: anyone's own ``model.fit``, continued at the very step at which it was killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tltf import rundir
from tltf.errors import ArgumentError
from tltf.interval import SaveInterval, save_interval
from tltf.training import callbackstate, states
from tltf.training.states import Position, State

EpochFunction = Callable[[tf.Tensor], tf.data.Dataset]


class ExactResume(keras.callbacks.Callback):
    """Saves everything that the next step depends on, and goes on from there in the next process.

    Model, optimizer, metrics, seed states and the memory of the other callbacks, committed every
    ``save_every``. Unlike ``keras.callbacks.BackupAndRestore`` no epoch is repeated and the
    random state goes on, so that the weights are the ones of an uninterrupted ``fit``, bit for
    bit, if the data is the same again. Give it as the last callback.

    Args:
      folder: where the states go; of this training alone, created with its parents.
      save_every: ``30s``, ``50steps``, or ``auto`` (30 s, longer where saving would cost more
        than 5 % of the time).
      others: the other callbacks of the same ``fit``, whose memory is kept (``EarlyStopping``,
        ``ReduceLROnPlateau``, your own).

    Raises:
      ArgumentError, OutputError: a bad interval or folder.
      MismatchError: from ``fit``, when the folder's state is of another model.

    Example::

      stopping = keras.callbacks.EarlyStopping(patience=3)
      resume = tltf.ExactResume("states", save_every="50steps", others=[stopping])
      model.fit(
          resume.data(train), epochs=10, initial_epoch=resume.initial_epoch,
          callbacks=[stopping, resume],
      )
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        save_every: str | float | SaveInterval = "auto",
        others: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        super().__init__()
        self.folder, self.others = Path(folder), list(others)
        given = isinstance(save_every, SaveInterval)
        self.interval = save_every if given else save_interval(save_every)  # type: ignore[arg-type]
        rundir.check_writable(self.folder, flag="folder")
        self.state: State | None = states.newest(self.folder)
        at = self.state.position if self.state else Position()
        self.steps_done = self.state.steps_done if self.state else 0
        self._waiting = at.step
        self._epoch = tf.Variable(at.epoch, dtype=tf.int64, trainable=False)
        self._left_out = tf.Variable(at.step, dtype=tf.int64, trainable=False)
        self._given = False
        self._saved_at, self._cost = time.monotonic(), 0.0

    @property
    def initial_epoch(self) -> int:
        """For ``fit(initial_epoch=...)``: epochs that are complete."""
        return self.state.position.epoch if self.state else 0

    @property
    def resumed_from(self) -> dict[str, int] | None:
        """``{epoch, step}`` of the state that this process began with, or None."""
        at = self.state.position if self.state else None
        return {"epoch": at.epoch, "step": at.step} if at else None

    def data(self, train: tf.data.Dataset | EpochFunction) -> tf.data.Dataset:
        """What to pass to ``fit``: the batches of each epoch.

        In the epoch that was begun, in the place of each batch that was trained already stands a
        single example: Keras counts the batches of its first epoch and wants as many in the
        others. What it learns from them is thrown away when the state is put back, just before
        the first batch that is left.

        Args:
          train: batches that are the same each time they are read; or a function from the epoch
            (int64 scalar tensor) to them, for example one that shuffles by
            ``shuffle(n, seed=epoch, reshuffle_each_iteration=False)``.
        """
        make = train if callable(train) else lambda epoch: train
        self._given = True

        def epoch(_: tf.Tensor) -> tf.data.Dataset:
            # Under the global seed 0 TensorFlow asks whether a shuffle's own seed is 0, which a
            # tensor cannot answer: this graph gets another one.
            tf.compat.v1.set_random_seed(1)
            done = self._left_out.read_value()
            batches = make(self._epoch.read_value())
            return batches.take(1).map(_one_example).repeat(done).concatenate(batches.skip(done))

        return tf.data.Dataset.range(1).flat_map(epoch)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if not self._given or self.model.steps_per_execution != 1:
            raise ArgumentError(
                "fit was given other data than resume.data(train), or takes several steps at once",
                where="ExactResume",
                next_action="call model.fit(resume.data(train), ...) with steps_per_execution=1",
            )
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        if self.state is not None:
            self._put_back(self.state)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch.assign(epoch)
        if self.state is not None and epoch == self.initial_epoch and not self._waiting:
            self._remind(self.state)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.state is not None and self._waiting:
            self._waiting -= 1
            if not self._waiting:
                self._put_back(self.state)
                states.assign(self.model.metrics_variables, self.state, "metrics")
                self._remind(self.state)
            return
        self.steps_done += 1
        if self._due():
            self._save(Position(0, int(self._epoch), batch + 1))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._left_out.assign(0)
        if self._due() or epoch + 1 == self.params.get("epochs"):
            self._save(Position(0, epoch + 1, 0))

    def _due(self) -> bool:
        since = time.monotonic() - self._saved_at
        return self.interval.due(
            steps_done=self.steps_done, since_seconds=since, cost_seconds=self._cost
        )

    def _put_back(self, state: State) -> None:
        states.assign(self.model.variables, state, "model")
        states.assign(self.model.optimizer.variables, state, "optimizer")

    def _remind(self, state: State) -> None:
        """The other callbacks, after each has begun anew."""
        memory = [v for k, v in sorted(state.tensors.items()) if k.startswith("callbacks/")]
        callbackstate.put_back(self.others, state.callbacks["theirs"], memory)

    def _save(self, position: Position) -> None:
        started = time.monotonic()
        rows, memory = callbackstate.captured(self.others)
        states.save(
            self.folder,
            position=position,
            steps_done=self.steps_done,
            groups={
                "model": self.model.variables,
                "optimizer": self.model.optimizer.variables,
                "metrics": self.model.metrics_variables if position.step else [],
                "callbacks": memory,
            },
            callbacks={"theirs": rows},
            history=[],
        )
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - started


def _one_example(*batch: Any) -> Any:
    """The first example of a batch, unless the model may count on the batch's size."""
    return tf.nest.map_structure(lambda x: x if x.shape[:1].is_fully_defined() else x[:1], batch)
