"""Further terms in the loss of what a phase trains, and what they read of each example.

What is compiled and trained is then another model around the same layers; the model that is saved,
measured and exported stays the one that was given.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from tltf.training import loop
from tltf.training.boundary import Boundary
from tltf.training.caching import CachedPhase
from tltf.training.freezing import Trainability


class Guidance(Protocol):
    """Where the terms come from; :class:`tltf.transfer.guidance.Guidance` is one."""

    @property
    def columns(self) -> int:
        """Numbers that every training target carries behind its own, for the terms to read."""

    def compose(self, model: keras.Model, boundary: Boundary | None) -> keras.Model | None:
        """What trains in the place of ``model``, or of the boundary's tail.

        Returns:
          A model of the same variables that takes ``columns`` further numbers of each example as
          its last input, if there are any; None where no term has anything to act on.
        """


@dataclass(frozen=True, kw_only=True)
class Guided:
    """A phase with its terms: what trains, on what, and the variables that only the terms have."""

    part: keras.Model
    data: loop.EpochData
    validation: tf.data.Dataset | None
    own: tuple[keras.Variable, ...] = ()

    def trainability(self, intended: Trainability) -> Trainability:
        """With the terms' own variables, which train too."""
        paths = tuple(v.path for v in self.own)
        return dataclasses.replace(intended, trainable=(*intended.trainable, *paths))


def guided(
    guidance: Guidance | None,
    model: keras.Model,
    *,
    cached: CachedPhase | None,
    data: loop.EpochData,
    validation: tf.data.Dataset | None,
) -> Guided:
    """The phase whose flags are set in ``model``, with the terms of ``guidance``.

    Args:
      guidance: None for none.
      model: the whole.
      cached: the stored features that the phase trains on; None for ``data`` and ``validation``.
    """
    boundary = cached.boundary if cached is not None else None
    plain = boundary.tail if boundary is not None else model
    if cached is not None:
        data, validation = cached.data.train, cached.data.validation
    if guidance is None:
        return Guided(part=plain, data=data, validation=validation)
    part = guidance.compose(model, boundary)
    columns = guidance.columns
    if columns:
        data = GuidedEpochs(data, columns, read=part is not None)
    if part is None:
        return Guided(part=plain, data=data, validation=validation)
    if columns and validation is not None:
        validation = validation.map(lambda *batch: _with_nothing(batch, columns))
    known = {id(v) for v in model.variables}
    own = tuple(v for v in part.trainable_variables if id(v) not in known)
    return Guided(part=part, data=data, validation=validation, own=own)


class GuidedEpochs:
    """Training batches whose last columns of ``y`` become the last input, or are left out.

    Args:
      data: with targets ``[b, C + columns]``.
      columns: how many are none of the target's.
      read: whether the model takes them.
    """

    def __init__(self, data: loop.EpochData, columns: int, *, read: bool) -> None:
        self._data, self._columns, self._read = data, columns, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    @property
    def steps_per_epoch(self) -> int:
        """As the data's."""
        return self._data.steps_per_epoch

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """The data's batches as ``((*x, read), y [b, C], sample_weight)``."""
        columns = self._columns

        def apart(x: Any, y: tf.Tensor, weight: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
            if self._read:
                x = (*tf.nest.flatten(x), y[:, -columns:])
            return x, y[:, :-columns], weight

        batches = self._data.train_dataset(epoch, start_step, epochs=epochs)
        return batches.map(apart).prefetch(1)


def _with_nothing(batch: tuple[Any, ...], columns: int) -> tuple[Any, ...]:
    """An evaluation batch; the terms are silent in it, but the model has the input."""
    x, *rest = batch
    flat = tf.nest.flatten(x)
    return ((*flat, tf.zeros((tf.shape(flat[0])[0], columns))), *rest)
