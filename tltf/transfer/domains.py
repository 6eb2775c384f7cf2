"""Mixed batches of two domains as a pure function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from tltf.data.readahead import read_ahead
from tltf.errors import ArgumentError, DataError
from tltf.transfer.mixing import DomainMixing

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Domain:
    """Examples of one domain, in memory.

    Args:
      x: the model's inputs, each ``[n, ...]``.
      y: targets ``[n, C]``; None where there are no labels.
      weights: of the examples in the loss ``[n]``; None for 1 each.
    """

    x: Arrays
    y: np.ndarray | None = None
    weights: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def n(self) -> int:
        """How many examples there are."""
        return len(self.x[0])


class DomainEpochs:
    """Batches ``((*x, domain), y, sample_weight)``, half of them source and half target.

    An epoch goes through the larger domain once; the smaller one is repeated in ever new orders.
    ``domain`` is 0 for source and 1 for target; what has no label gets y = 0 and weight 0, and
    the weights are scaled so that the loss is the mean over the labelled examples. Satisfies
    :class:`tltf.training.loop.EpochData`.

    Args:
      source: labelled.
      target: labelled with pseudo-labels, or not.
      batch_size: examples per step of both domains together, at least 2.
      seed: of the orders.
      mixing: mixes the source half of each batch with its target half, anew in every epoch; None
        leaves it as it is.

    Example::

      data = DomainEpochs(Domain((x_s,), y_s), Domain((x_t,)), batch_size=64)
      batches = data.train_dataset(0, epochs=10)
      training.fit(batches, steps_per_epoch=data.steps_per_epoch, epochs=10)
    """

    def __init__(
        self,
        source: Domain,
        target: Domain,
        *,
        batch_size: int = 64,
        seed: int = 0,
        mixing: DomainMixing | None = None,
    ) -> None:
        if batch_size < 2:
            raise ArgumentError(f"batch_size={batch_size}, expected at least 2")
        if source.y is None or not source.n or not target.n:
            raise DataError(
                f"{source.n} source and {target.n} target examples, expected some of both, and"
                " source labels",
                where="DomainEpochs",
            )
        self.source, self.target = source, target
        self.batch_size, self.seed, self.mixing = batch_size, seed, mixing
        self._half = batch_size // 2

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-max(self.source.n, self.target.n) // self._half)

    def train_dataset(self, epoch: int, start_step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """As :meth:`tltf.data.batches.Batches.train_dataset`."""

        def batches() -> Iterator[Any]:
            for e in range(epoch, epoch + epochs):
                rows = [self._order(e, side) for side in (0, 1)]
                for step in range(start_step if e == epoch else 0, self.steps_per_epoch):
                    part = slice(step * self._half, (step + 1) * self._half)
                    yield self._batch(rows[0][part], rows[1][part], seed=[self.seed, e, step, 2])

        made = tf.data.Dataset.from_generator(batches, output_signature=self._signature())
        return read_ahead(made)

    def _order(self, epoch: int, side: int) -> np.ndarray:
        """Indices of one domain for a whole epoch, in as many shuffled rounds as it takes."""
        n = (self.source, self.target)[side].n
        wanted = self.steps_per_epoch * self._half
        rng = np.random.default_rng([self.seed, epoch, side])
        return np.concatenate([rng.permutation(n) for _ in range(-(-wanted // n))])[:wanted]

    def _batch(self, s: np.ndarray, t: np.ndarray, *, seed: Sequence[int]) -> Any:
        source, target = self.source, self.target
        x_s, x_t = [a[s] for a in source.x], [b[t] for b in target.x]
        domain = np.repeat(np.float32([0, 1]), [len(s), len(t)])
        y_s = source.y[s] if source.y is not None else np.zeros((len(s), 1))
        if self.mixing is not None:
            x_s, y_s = self.mixing(x_s, y_s, x_t, t, seed=seed)
        x = tuple(np.concatenate(pair).astype(np.float32) for pair in zip(x_s, x_t, strict=True))
        y_t = target.y[t] if target.y is not None else np.zeros((len(t), y_s.shape[1]))
        weight = np.concatenate([_weights(source, s), _weights(target, t)])
        total = weight.sum()
        weight = weight * (len(weight) / total) if total > 0 else weight
        y = np.concatenate([y_s, y_t]).astype(np.float32)
        return (*x, domain), y, weight.astype(np.float32)

    def _signature(self) -> Any:
        x: Sequence[Any] = [tf.TensorSpec((None, *a.shape[1:]), tf.float32) for a in self.source.x]
        classes = self.source.y.shape[1] if self.source.y is not None else 1
        vector = tf.TensorSpec((None,), tf.float32)
        return (*x, vector), tf.TensorSpec((None, classes), tf.float32), vector


def _weights(domain: Domain, rows: np.ndarray) -> np.ndarray:
    if domain.y is None:
        return np.zeros(len(rows))
    return np.ones(len(rows)) if domain.weights is None else domain.weights[rows]
