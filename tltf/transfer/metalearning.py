"""Learning to learn from few examples: prototypical networks, Reptile, first-order MAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tltf.errors import ArgumentError
from tltf.transfer.fewshot import Episode, EpisodeSampler, Head, Progress
from tltf.transfer.kernels import Floats
from tltf.transfer.shallow import Labels


def prototypical_loss(
    support: Any, support_labels: Any, query: Any, query_labels: Any, *, ways: int
) -> Any:
    """``mean -log softmax_c(-|f(x) - c_c|**2)`` at the true class, c_c the class means.

    Snell, Swersky, Zemel, *Prototypical Networks for Few-shot Learning* (NeurIPS 2017), equations
    1 and 2.

    Args:
      support, query: embeddings ``[n, D]``.
      support_labels, query_labels: integers from 0 to ``ways - 1``.
      ways: classes of the episode.
    """
    one_hot = ops.one_hot(support_labels, ways)
    means = ops.matmul(ops.transpose(one_hot), support) / ops.sum(one_hot, axis=0)[:, None]
    squared = ops.sum((query[:, None, :] - means[None, :, :]) ** 2, axis=2)
    log_p = ops.log_softmax(-squared)
    return -ops.mean(ops.sum(log_p * ops.one_hot(query_labels, ways), axis=1))


def train_prototypical(
    encoder: keras.Model,
    x: np.ndarray,
    sampler: EpisodeSampler,
    *,
    episodes: int,
    optimizer: keras.optimizers.Optimizer | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Trains ``encoder`` on episodes, in place; returns the loss of each.

    Args:
      encoder: from ``x`` to embeddings ``[n, D]``.
      x: all examples, in the order of the sampler's labels.
      sampler: episodes of the training classes.
      episodes: how many.
      optimizer: None for Adam at 1e-3.
      progress: called with 1 after each.
    """
    optimizer = optimizer or keras.optimizers.Adam(1e-3)
    optimizer.build(encoder.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(batch: Any, n_support: Any, support_labels: Any, query_labels: Any) -> Any:
        with tf.GradientTape() as tape:
            f = encoder(batch, training=True)
            loss = prototypical_loss(
                f[:n_support], support_labels, f[n_support:], query_labels, ways=sampler.ways
            )
        gradients = tape.gradient(loss, [v.value for v in encoder.trainable_variables])
        optimizer.apply_gradients(zip(gradients, encoder.trainable_variables, strict=True))
        return loss

    losses = []
    for e in sampler.episodes(episodes):
        batch = np.concatenate([x[e.support], x[e.query]]).astype("float32")
        labels = (tf.constant(y, tf.int32) for y in (e.support_labels, e.query_labels))
        losses.append(float(step(tf.constant(batch), tf.constant(len(e.support)), *labels)))
        if progress is not None:
            progress(1)
    return losses


def reptile(
    model: keras.Model,
    x: np.ndarray,
    sampler: EpisodeSampler,
    *,
    episodes: int,
    inner_steps: int = 5,
    inner_rate: float = 0.02,
    outer_rate: float = 0.5,
    progress: Progress | None = None,
) -> None:
    """Moves the weights towards those that each task ends with: ``w += outer (w_task - w)``.

    Nichol, Achiam, Schulman, *On First-Order Meta-Learning Algorithms* (2018), algorithm 1; the
    outer rate falls linearly to zero.

    Args:
      model: from ``x`` to logits ``[n, ways]``; trained in place.
      x: all examples, in the order of the sampler's labels.
      sampler: episodes of the training classes.
      episodes: how many tasks.
      inner_steps, inner_rate: gradient steps on support and query of a task, and their rate.
      outer_rate: at the start.
      progress: called with 1 after each task.
    """
    descend = _descent(model, inner_rate)
    for number, e in enumerate(sampler.episodes(episodes)):
        before = _values(model)
        rows = np.concatenate([e.support, e.query])
        labels = np.concatenate([e.support_labels, e.query_labels])
        descend(x[rows], labels, inner_steps)
        share = outer_rate * (1.0 - number / episodes)
        for variable, old in zip(model.trainable_variables, before, strict=True):
            variable.assign(old + share * (variable.numpy() - old))
        if progress is not None:
            progress(1)


def first_order_maml(
    model: keras.Model,
    x: np.ndarray,
    sampler: EpisodeSampler,
    *,
    episodes: int,
    inner_steps: int = 5,
    inner_rate: float = 0.02,
    optimizer: keras.optimizers.Optimizer | None = None,
    progress: Progress | None = None,
) -> None:
    """The gradient of the query loss at the weights that the support set leads to.

    Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning* (ICML 2017), equation 1 without second
    derivatives (section 5.2).

    Args:
      model: from ``x`` to logits ``[n, ways]``; trained in place.
      x: all examples, in the order of the sampler's labels.
      sampler: episodes of the training classes.
      episodes: how many tasks.
      inner_steps, inner_rate: gradient steps on the support of a task, and their rate.
      optimizer: of the outer step; None for Adam at 1e-3.
      progress: called with 1 after each task.
    """
    optimizer = optimizer or keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    descend, gradient = _descent(model, inner_rate), _gradient(model)
    for e in sampler.episodes(episodes):
        before = _values(model)
        descend(x[e.support], e.support_labels, inner_steps)
        found = gradient(_tensor(x[e.query]), tf.constant(e.query_labels, tf.int32))
        for variable, old in zip(model.trainable_variables, before, strict=True):
            variable.assign(old)
        optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))
        if progress is not None:
            progress(1)


def adapted_accuracy(
    model: keras.Model,
    x: np.ndarray,
    episode: Episode,
    *,
    inner_steps: int = 10,
    inner_rate: float = 0.02,
) -> float:
    """Share of right answers on the query set after learning the support set; weights are put back.

    Args:
      model, x: as :func:`reptile`.
      episode: of the test classes.
      inner_steps, inner_rate: of the learning; at least one step.
    """
    answer = adapted_head(model, inner_steps=inner_steps, inner_rate=inner_rate)
    scores = answer(x[episode.support], episode.support_labels, x[episode.query])
    return float((scores.argmax(axis=1) == episode.query_labels).mean())


def adapted_head(model: keras.Model, *, inner_steps: int = 10, inner_rate: float = 0.02) -> Head:
    """What a meta-learned model answers after learning a support set, for
    :func:`tltf.transfer.evaluate_episodes`; its weights are put back.

    Args:
      model: as :func:`reptile`, with as many logits as the episodes have ways.
      inner_steps, inner_rate: of the learning; at least one step.
    """
    if inner_steps < 1:
        raise ArgumentError(f"inner_steps={inner_steps}, expected at least 1")
    answered, rate = _answering(model), tf.constant(inner_rate, tf.float32)

    def scores(support: Floats, labels: Labels, query: Floats) -> Floats:
        y = tf.constant(labels, tf.int32)
        return np.asarray(answered(_tensor(support), y, _tensor(query), rate, inner_steps))

    return scores


def _gradient(model: keras.Model) -> Any:
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def make() -> Any:
        @tf.function(reduce_retracing=True)
        def gradient(batch: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(labels, model(batch, training=True))
            return tape.gradient(loss, [v.value for v in model.trainable_variables])

        return gradient

    return _once(model, "tltf_gradient", make)


def _descent(model: keras.Model, rate: float) -> Any:
    """``descend(x, labels, steps)``, all steps in one call: each takes less time than going to the
    graph and back."""
    gradient, size = _gradient(model), tf.constant(rate, tf.float32)

    def make() -> Any:
        @tf.function(reduce_retracing=True, autograph=False)
        def down(batch: Any, y: Any, size: Any, steps: int) -> None:
            for _ in range(steps):
                for v, g in zip(model.trainable_variables, gradient(batch, y), strict=True):
                    v.assign_sub(size * g)

        return down

    down = _once(model, "tltf_down", make)
    return lambda x, labels, steps: down(_tensor(x), tf.constant(labels, tf.int32), size, steps)


def _answering(model: keras.Model) -> Any:
    """As :func:`_descent`, with the answers on a query set and the weights put back."""
    gradient = _gradient(model)

    def make() -> Any:
        @tf.function(reduce_retracing=True, autograph=False)
        def answered(batch: Any, y: Any, query: Any, size: Any, steps: int) -> Any:
            variables = model.trainable_variables
            before = [tf.identity(v.value) for v in variables]
            for _ in range(steps):
                for v, g in zip(variables, gradient(batch, y), strict=True):
                    v.assign_sub(size * g)
            logits = tf.identity(model(query, training=False))
            for v, old in zip(variables, before, strict=True):
                v.assign(old)
            return logits

        return answered

    return _once(model, "tltf_answered", make)


def _once(model: keras.Model, name: str, make: Callable[[], Any]) -> Any:
    """One trace for all episodes of a model; a plain attribute, so that nothing tracks it."""
    if not hasattr(model, name):
        object.__setattr__(model, name, make())
    return getattr(model, name)


def _values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(v.numpy()) for v in model.trainable_variables]


def _tensor(x: np.ndarray) -> tf.Tensor:
    return tf.constant(np.asarray(x, np.float32))
