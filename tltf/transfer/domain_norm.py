"""Batch normalisation that knows domains: statistics per domain, and AdaBN."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
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
    1. The moving moments become the mean over the batches of each batch's; weights, Dropout and
    all ``trainable`` flags are left as they are.

    Args:
      model: with BatchNormalization layers, anywhere in it.
      batches: inputs ``[b, ...]``, each of at least two examples.

    Returns:
      How many layers were adapted.

    Raises:
      ArgumentError: the model has no BatchNormalization, or there are no batches.
    """
    leaves = freezing.leaves(model)
    norms = [x for x in leaves if isinstance(x, keras.layers.BatchNormalization)]
    if not norms:
        raise ArgumentError(f"{model.name} has no BatchNormalization", where="adapt_batch_norm")
    kept = [(layer, layer.trainable) for layer in [*_containers(model), *leaves]]
    momenta = [norm.momentum for norm in norms]
    # Frozen layers are quiet in a Backbone; assigning to a container reaches what is in it,
    # so containers come before leaves, here and below.
    for container in _containers(model):
        container.trainable = True
    for leaf in leaves:
        leaf.trainable = isinstance(leaf, keras.layers.BatchNormalization)
    done = 0
    try:
        for batch in batches:
            for norm in norms:
                norm.momentum = done / (done + 1.0)
            model(batch, training=True)
            done += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for layer, flag in kept:
            layer.trainable = flag
    if not done:
        raise ArgumentError("there are no batches", where="adapt_batch_norm")
    return len(norms)


def _containers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Layers with layers in them, from the outside in."""
    below = freezing.sublayers(layer)
    return [layer, *(c for sub in below for c in _containers(sub))] if below else []
