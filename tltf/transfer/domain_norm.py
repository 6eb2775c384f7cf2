"""Batch normalisation that knows domains: statistics per domain, and AdaBN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tltf.errors import ArgumentError
from tltf.training import freezing


@keras.saving.register_keras_serializable(package="tltf")
class DomainBatchNormalization(keras.layers.Layer):
    """Batch normalisation with statistics, gamma and beta of its own for each domain.

    ``gamma_d (x - mean_d) / sqrt(var_d + epsilon) + beta_d``, d the example's domain, moments over
    the examples of d in the batch (Chang et al., *Domain-Specific Batch Normalization*, CVPR 2019,
    equations 5 to 7). A domain without examples in a batch keeps its statistics.

    Call it as ``layer(x, domain)`` with 0 for source and 1 for target, or ``layer(x)`` for the
    target alone.

    Args:
      momentum, epsilon: as ``keras.layers.BatchNormalization``.
    """

    def __init__(self, *, momentum: float = 0.9, epsilon: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, x_shape: Any, *_: Any) -> None:
        size = x_shape[-1]

        def add(name: str, initial: str, trainable: bool) -> Any:
            return self.add_weight(
                shape=(2, size), initializer=initial, trainable=trainable, name=name
            )

        self.gamma, self.beta = add("gamma", "ones", True), add("beta", "zeros", True)
        self.moving_mean = add("moving_mean", "zeros", False)
        self.moving_variance = add("moving_variance", "ones", False)
        super().build(x_shape)

    def call(self, x: Any, domain: Any = None, training: bool | None = None) -> Any:
        kept = x.dtype
        x = ops.cast(x, "float32")
        if domain is None:
            target = ops.ones((ops.shape(x)[0],))
        else:
            target = ops.reshape(ops.cast(domain, "float32"), (-1,))
        masks = ops.stack([1.0 - target, target])
        mean, variance = (
            ops.cast(self.moving_mean, "float32"),
            ops.cast(self.moving_variance, "float32"),
        )
        if training and self.trainable:
            mean, variance = self._moments(x, masks, mean, variance)
        chosen = ops.transpose(masks)
        shape = (-1, *(1 for _ in x.shape[1:-1]), x.shape[-1])

        def of_domain(values: Any) -> Any:
            return ops.reshape(ops.matmul(chosen, ops.cast(values, "float32")), shape)

        scale = of_domain(self.gamma) / ops.sqrt(of_domain(variance) + self.epsilon)
        return ops.cast((x - of_domain(mean)) * scale + of_domain(self.beta), kept)

    def get_config(self) -> dict[str, Any]:
        own = {"momentum": self.momentum, "epsilon": self.epsilon}
        return {**super().get_config(), **own}

    def _moments(self, x: Any, masks: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
        """Moments of the batch by domain ``[2, D]``; the moving ones are updated."""
        axes = tuple(range(1, len(x.shape) - 1))
        first = ops.mean(x, axis=axes) if axes else x
        count = ops.maximum(ops.sum(masks, axis=1, keepdims=True), 1.0)
        here = ops.sum(masks, axis=1, keepdims=True) > 0.5
        found = ops.matmul(masks, first) / count
        shape = (-1, *(1 for _ in axes), x.shape[-1])
        centred = (x - ops.reshape(ops.matmul(ops.transpose(masks), found), shape)) ** 2
        second = ops.mean(centred, axis=axes) if axes else centred
        spread = ops.matmul(masks, second) / count
        found, spread = ops.where(here, found, mean), ops.where(here, spread, variance)
        m = self.momentum
        self.moving_mean.assign(m * mean + (1 - m) * ops.stop_gradient(found))
        self.moving_variance.assign(m * variance + (1 - m) * ops.stop_gradient(spread))
        return found, spread


def adapt_batch_norm(model: keras.Model, batches: Iterable[Any]) -> int:
    """AdaBN: every BatchNorm's statistics become those of ``batches``, usually the target's.

    Li et al., *Revisiting Batch Normalization for Practical Domain Adaptation* (2016), algorithm
    1. Every example counts alike, whatever batch it is in: with n_b examples, mean m_b and
    variance v_b in batch b, ``m = sum n_b m_b / n`` and ``v = sum n_b (v_b + (m_b - m)**2) / n``.
    A last batch that is smaller joins the one before it, since few examples are normalised by
    their own moments to nearly nothing. Weights, Dropout and all ``trainable`` flags are left as
    they are.

    Args:
      model: with BatchNormalization layers, anywhere in it.
      batches: inputs ``[b, ...]``, at least two examples in all.

    Returns:
      How many layers were adapted.

    Raises:
      ArgumentError: the model has no BatchNormalization, or there are no batches.
    """
    norms, leaves = batch_norms(model), freezing.leaves(model)
    kept = [(layer, layer.trainable) for layer in [*_containers(model), *leaves]]
    momenta = [norm.momentum for norm in norms]
    # Frozen layers are quiet in a Backbone; assigning to a container reaches what is in it,
    # so containers come before leaves, here and below.
    for container in _containers(model):
        container.trainable = True
    for leaf in leaves:
        leaf.trainable = isinstance(leaf, keras.layers.BatchNormalization)
    found = [_Moments() for _ in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # the moving moments are those of the last batch
        for batch in _evened(batches):
            model(batch, training=True)
            for norm, moments in zip(norms, found, strict=True):
                moments.add(_examples(batch), norm.moving_mean, norm.moving_variance)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for layer, flag in kept:
            layer.trainable = flag
    if not found[0].n:
        raise ArgumentError("there are no batches", where="adapt_batch_norm")
    for norm, moments in zip(norms, found, strict=True):
        norm.moving_mean.assign(moments.mean)
        norm.moving_variance.assign(moments.variance)
    return len(norms)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The BatchNormalization layers of a model.

    Raises:
      ArgumentError: it has none.
    """
    leaves = freezing.leaves(model)
    norms = [x for x in leaves if isinstance(x, keras.layers.BatchNormalization)]
    if not norms:
        raise ArgumentError(
            f"{model.name} has no BatchNormalization, whose statistics are what AdaBN adapts",
            where="adapt_batch_norm",
            next_action="use another method",
        )
    return norms


class _Moments:
    """Mean and variance of examples that come in batches (Chan, Golub, LeVeque, 1983), float64."""

    def __init__(self) -> None:
        self.n, self.mean, self.variance = 0, np.zeros(()), np.zeros(())

    def add(self, n: int, mean: Any, variance: Any) -> None:
        mean, variance = (ops.convert_to_numpy(x).astype(np.float64) for x in (mean, variance))
        share = n / (self.n + n)
        gap = mean - self.mean
        between = share * (1.0 - share) * gap**2
        self.variance = (1.0 - share) * self.variance + share * variance + between
        self.mean, self.n = self.mean + share * gap, self.n + n


def _evened(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; the last one with the one before it, where it is smaller."""
    before = None
    for batch in batches:
        if before is not None:
            if _examples(batch) < _examples(before):
                batch = keras.tree.map_structure(_joined, before, batch)
            else:
                yield before
        before = batch
    if before is not None:
        yield before


def _joined(a: Any, b: Any) -> Any:
    return ops.concatenate([ops.convert_to_tensor(a), ops.convert_to_tensor(b)])


def _examples(batch: Any) -> int:
    return len(keras.tree.flatten(batch)[0])


def _containers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Layers with layers in them, from the outside in."""
    below = freezing.sublayers(layer)
    return [layer, *(c for sub in below for c in _containers(sub))] if below else []
