"""One step of training or evaluation, where Keras' own cannot be used: on replicas, and in parts.

In parts: a batch of b examples goes through the network in k = ceil(b / m) pieces, of which each is
as large as the others or one smaller, and the gradients are summed with the weight b_i / b. For a
loss that is a mean over examples this is the gradient of the whole batch, to rounding, at the
memory of m examples. BatchNorm that adapts sees the pieces, and dropout draws for each.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def train_step(model: keras.Model, data: Any, *, at_once: int = 0) -> tf.Tensor:
    """Keras' training step, with the gradient summed over replicas before it is clipped.

    Args:
      model: compiled and built.
      data: ``(x, y, sample_weight)`` of this replica.
      at_once: most examples that go through the network together; 0 for all.
    """
    loss, gradients = _in_parts(model, data, at_once) if at_once else _gradients(model, data)
    model.optimizer.apply(_clipped(model.optimizer, gradients), model.trainable_variables)
    return loss


def _gradients(model: keras.Model, data: Any) -> tuple[tf.Tensor, list[Any]]:
    """The loss, counted in the metrics, and its gradients, times the loss scale."""
    x, y, weight = data
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=True)
        scaled = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, model.trainable_variables)
    _measured(model, data, y_pred, loss)
    return loss, gradients


def _in_parts(model: keras.Model, data: Any, at_once: int) -> tuple[tf.Tensor, list[Any]]:
    """As :func:`_gradients`, one part after the other."""
    size = tf.shape(tf.nest.flatten(data[0])[0])[0]
    parts = (size + at_once - 1) // at_once
    unreached: set[int] = set()

    def one(j: tf.Tensor, total: tf.Tensor, sums: list[tf.Tensor]) -> tuple[Any, ...]:
        start, stop = size * j // parts, size * (j + 1) // parts
        share = tf.cast(stop - start, tf.float32) / tf.cast(size, tf.float32)
        part = [None if x is None else tf.nest.map_structure(lambda t: t[start:stop], x)
                for x in data]  # fmt: skip
        loss, gradients = _gradients(model, part)
        unreached.update(i for i, g in enumerate(gradients) if g is None)
        added = [s if g is None else s + tf.cast(share, s.dtype) * tf.convert_to_tensor(g)
                 for s, g in zip(sums, gradients, strict=True)]  # fmt: skip
        return j + 1, total + share * tf.cast(loss, tf.float32), added

    zeros = [tf.zeros_like(v.value) for v in model.trainable_variables]
    _, loss, sums = tf.while_loop(
        lambda j, *_: j < parts,
        one,
        (tf.constant(0), tf.constant(0.0), zeros),
        parallel_iterations=1,  # what several at a time would cost is the point
    )
    return loss, [None if i in unreached else s for i, s in enumerate(sums)]


def evaluation_step(model: keras.Model, data: Any) -> tf.Tensor:
    """Keras' step of an evaluation."""
    x, y, weight = data
    y_pred = model(x, training=False)
    loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=False)
    _measured(model, data, y_pred, loss)
    return loss


def _measured(model: keras.Model, data: Any, y_pred: Any, loss: tf.Tensor) -> None:
    """The mean loss, of which compute_loss gave a replica's share, and the compiled metrics."""
    x, y, weight = data
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    size = tf.shape(tf.nest.flatten(x)[0])[0]
    model._loss_tracker.update_state(loss * replicas, sample_weight=size)  # seam: _loss_tracker
    model.compute_metrics(x, y, y_pred, sample_weight=weight)


def _clipped(optimizer: Any, gradients: list[Any]) -> list[Any]:
    """Clipped as one device would: by the norm of the sum. What Keras clips then is no larger.

    A loss-scale optimizer clips what it has unscaled, each replica's by itself.
    """
    most = getattr(optimizer, "global_clipnorm", None)
    context = tf.distribute.get_replica_context()
    if most is None or context.num_replicas_in_sync == 1:
        return gradients
    present = [g for g in gradients if g is not None]
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    whole = [None if g is None else next(summed) for g in gradients]
    clipped, _ = tf.clip_by_global_norm(whole, most)
    return [None if g is None else g / context.num_replicas_in_sync for g in clipped]
