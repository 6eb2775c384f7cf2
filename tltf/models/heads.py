"""Heads: the new layers from features to logits, in float32 whatever the precision policy."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tltf.errors import ArgumentError, nearest

HEAD = "head"
POOL = "pool"
LOGITS = "logits"


def head(
    outputs: int,
    *,
    pooling: str = "avg",
    hidden: Sequence[int] = (),
    activation: str = "relu",
    dropout: float = 0.0,
    l2: float = 0.0,
    seed: int = 0,
    name: str = HEAD,
) -> keras.Sequential:
    """Pooling, hidden Dense layers, dropout, and a Dense layer of logits.

    A logit is the number before softmax or sigmoid: compile with ``from_logits=True``.

    Args:
      outputs: number of logits: classes, labels, or 1 for regression; >= 1.
      pooling: ``avg`` or ``max`` over the two spatial axes, or ``flatten``. Features that
        are already a vector ``[B, D]`` pass unchanged.
      hidden: units of each hidden Dense layer, with ``activation``.
      dropout: rate in [0, 1) before each Dense layer.
      l2: factor of ``l2 * sum(kernel**2)`` added to the loss for each Dense kernel, >= 0.
      seed: of the initial weights and the dropout masks.

    Returns:
      A Sequential from features ``[B, h, w, D]`` or ``[B, D]`` to float32 logits
      ``[B, outputs]``; its first layer is called ``pool``, its last ``logits``.

    Raises:
      ArgumentError: an unknown pooling, or fewer than one output.

    Example::

      model = keras.Sequential([tltf.backbone("MobileNetV2"), tltf.head(3, dropout=0.2)])
    """
    if outputs < 1:
        raise ArgumentError(f"outputs={outputs}, expected at least 1", where="head")
    regularizer = keras.regularizers.L2(l2) if l2 else None
    layers: list[keras.layers.Layer] = [Pool(pooling, name=POOL, dtype="float32")]
    for i, units in enumerate(hidden):
        if dropout:
            layers.append(_dropout(dropout, seed + 2 * i, f"dropout_{i + 1}"))
        layers.append(
            keras.layers.Dense(
                units,
                activation=activation,
                kernel_initializer=keras.initializers.HeNormal(seed + 2 * i + 1),
                kernel_regularizer=regularizer,
                dtype="float32",
                name=f"hidden_{i + 1}",
            )
        )
    if dropout:
        layers.append(_dropout(dropout, seed + 2 * len(hidden), "dropout"))
    layers.append(
        keras.layers.Dense(
            outputs,
            kernel_initializer=keras.initializers.GlorotUniform(seed + 2 * len(hidden) + 1),
            kernel_regularizer=regularizer,
            dtype="float32",
            name=LOGITS,
        )
    )
    return keras.Sequential(layers, name=name)


@keras.saving.register_keras_serializable(package="tltf")
class Pool(keras.layers.Layer):
    """Feature maps ``[B, h, w, D]`` to vectors ``[B, D]``; vectors pass unchanged.

    Args:
      pooling: ``avg``, ``max`` or ``flatten``.
    """

    KINDS = ("avg", "max", "flatten")

    def __init__(self, pooling: str = "avg", **kwargs: object) -> None:
        super().__init__(**kwargs)
        if pooling not in self.KINDS:
            raise ArgumentError(
                f"pooling={pooling!r}, expected one of {', '.join(self.KINDS)}"
                f"{nearest(pooling, self.KINDS)}",
                where="--pooling",
            )
        self.pooling = pooling

    def call(self, features: keras.KerasTensor) -> keras.KerasTensor:
        if len(features.shape) == 2:
            return features
        if self.pooling == "flatten":
            size = 1
            for side in features.shape[1:]:
                size *= side
            return keras.ops.reshape(features, (-1, size))
        reduce = keras.ops.mean if self.pooling == "avg" else keras.ops.max
        return reduce(features, axis=tuple(range(1, len(features.shape) - 1)))

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "pooling": self.pooling}


def _dropout(rate: float, seed: int, name: str) -> keras.layers.Dropout:
    return keras.layers.Dropout(rate, seed=seed, dtype="float32", name=name)
