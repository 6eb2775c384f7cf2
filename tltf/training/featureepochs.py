"""Epochs over stored rows, in the order and with the targets that images would have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tltf.data.batches import Batches
from tltf.data.readahead import read_ahead
from tltf.training.features import Shapes, job_keys, unpadded, view_keys
from tltf.training.featurestore import FeatureStore

HELD_BYTES = 64_000_000
"""Rows that take no more than this as float32 are read once and stay in memory. A step on pooled
features takes less time than going from the graph to Python for them."""


@dataclass(frozen=True, kw_only=True)
class FeatureData:
    """What a cached phase trains on; both speak of crossing tensors instead of images."""

    train: FeatureEpochs
    validation: tf.data.Dataset


class FeatureEpochs:
    """Stored rows as :class:`tltf.training.loop.EpochData`, in the order of ``batches``.

    Epoch e reads view ``e mod views``; order, targets and weights are those of
    :meth:`Batches.train_dataset`, so that a run gives the same with and without a store.

    Args:
      batches: whose examples, order and batch size are taken.
      store: holds the rows of all of them, for every view.
      shapes: of the crossing tensors, where None is the axis of tokens: stored rows are padded
        to one length and cut to the longest text of the batch.
    """

    def __init__(
        self, batches: Batches, store: FeatureStore, *, shapes: Shapes | None = None
    ) -> None:
        self.batches, self.store = batches, store
        self.shapes = shapes or store.shapes
        self.batch_size = batches.batch_size
        self.steps_per_epoch = batches.steps_per_epoch
        self.views = batches.views or 1
        self._rows = [store.rows(view_keys(batches, v)) for v in range(self.views)]
        self._held: tuple[tf.Tensor, ...] = ()
        if held(store, batches.n * self.views, self.shapes):
            views = [store.read(rows) for rows in self._rows]
            self._held = tuple(tf.constant(np.concatenate(x)) for x in zip(*views, strict=True))

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """As :meth:`Batches.train_dataset`; ``x`` is a tuple of float32 ``[b, *shape]``."""
        choose = self.batches.chooser(epoch, epochs)
        read = self._from_memory if self._held else self._from_store
        views = np.array([(epoch + e) % len(self._rows) for e in range(epochs)], np.int64)
        per_epoch = self.steps_per_epoch

        def batch(step: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
            e = step // per_epoch
            chosen = choose(e, step % per_epoch)
            x = read(tf.constant(views)[e], chosen)
            y, weight = self.batches.train_targets(chosen)
            return x, y, weight

        steps = tf.data.Dataset.range(start_step, epochs * per_epoch)
        return read_ahead(steps.map(batch, 2, deterministic=True))

    def _from_memory(self, view: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
        place = tf.cast(view, chosen.dtype) * self.batches.n + chosen
        return tuple(tf.gather(rows, place) for rows in self._held)

    def _from_store(self, view: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
        def gather(view: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
            found = self.store.read(self._rows[int(view)][chosen])
            return unpadded(found, self.shapes, self.batches, chosen)

        kinds = [layout.output for layout in self.store.layouts]
        found = tf.numpy_function(gather, [view, chosen], kinds)
        return tuple(
            tf.ensure_shape(tensor, (None, *shape))
            for tensor, shape in zip(found, self.shapes, strict=True)
        )


def eval_features(
    batches: Batches,
    store: FeatureStore,
    *,
    shapes: Shapes | None = None,
    view: int | None = None,
) -> tf.data.Dataset:
    """Stored rows in the order of the records, as :meth:`Batches.eval_dataset`.

    Args:
      view: of an augmented view instead of the unchanged examples.
    """
    stored = store.rows(job_keys(batches, view))
    targets, weights = batches.targets(), batches.record_weights()
    shapes = shapes or store.shapes
    if held(store, batches.n, shapes):
        x = tuple(store.read(stored))
        whole = tf.data.Dataset.from_tensor_slices((x, targets, weights))
        return read_ahead(whole.batch(batches.batch_size))

    def rows() -> Iterator[Any]:
        for start in range(0, batches.n, batches.batch_size):
            part = slice(start, start + batches.batch_size)
            chosen = np.arange(batches.n)[part]
            x = unpadded(store.read(stored[part]), shapes, batches, chosen)
            yield tuple(x), targets[part], weights[part]

    spec = (
        tuple(
            tf.TensorSpec((None, *shape), layout.output)
            for shape, layout in zip(shapes, store.layouts, strict=True)
        ),
        tf.TensorSpec((None, targets.shape[1]), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    steps = batches.steps_per_epoch
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec)
    return read_ahead(dataset.apply(tf.data.experimental.assert_cardinality(steps)))


def held(store: FeatureStore, count: int, shapes: Shapes) -> bool:
    """Whether so many rows are few enough to stay in memory; never those of an axis of tokens,
    which are cut to the longest of a batch.

    Args:
      store: that has them, or will.
      count: of rows.
      shapes: of the crossing tensors, None for the axis of tokens.
    """
    if any(None in shape for shape in shapes):
        return False
    return 4 * count * sum(math.prod(shape) for shape in store.shapes) <= HELD_BYTES
