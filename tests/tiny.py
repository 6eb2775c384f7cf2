"""Networks and data small enough to train in a blink."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import tltf
from tltf.backbones.network import Backbone, as_backbone

SIDE, CLASSES = 8, 2


def body(*, dropout: float = 0.0, norm: bool = True) -> keras.Model:
    """A plain functional network of three blocks: ``low_1``, ``mid_2``, ``top_3``."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for i, name in enumerate(("low_1", "mid_2", "top_3")):
        x = keras.layers.Conv2D(
            4,
            3,
            strides=2,
            padding="same",
            name=f"{name}_conv",
            kernel_initializer=keras.initializers.HeNormal(seed=i),
        )(x)
        if norm:
            x = keras.layers.BatchNormalization(momentum=0.5, name=f"{name}_bn")(x)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, seed=i, name=f"{name}_drop")(x)
    return keras.Model(inputs, x, name="body")


def backbone(*, dropout: float = 0.0, norm: bool = True) -> Backbone:
    return as_backbone(body(dropout=dropout, norm=norm))


def classifier(*, dropout: float = 0.0, norm: bool = True, head_dropout: float = 0.0):
    """A model of :func:`tltf.classifier` on :func:`backbone`."""
    return tltf.classifier(
        backbone(dropout=dropout, norm=norm), tltf.head(CLASSES, dropout=head_dropout)
    )


def arrays(n: int = 12, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright pictures are class 1, dark ones class 0; one-hot."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    noise = random.normal(0, 20, (n, SIDE, SIDE, 3))
    images = np.clip(60 + 120 * labels[:, None, None, None] + noise, 0, 255) / 255
    return images.astype("float32"), np.eye(CLASSES, dtype="float32")[labels]


def dataset(n: int = 12, *, batch: int = 4, seed: int = 0) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays(n, seed=seed)).batch(batch)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """Every variable by its path, copied."""
    return {v.path: np.array(v.numpy()) for v in model.variables}


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    """Paths whose bits changed; seed states left out."""
    return {
        path
        for path in before
        if not path.endswith("seed_generator_state")
        and before[path].tobytes() != after[path].tobytes()
    }
