"""Small networks of our own without pretrained weights, for small images and for the demo."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tltf.backbones.catalog import Choice, check_published, input_side
from tltf.backbones.layers import Preprocess
from tltf.backbones.network import Backbone, mark
from tltf.errors import ArgumentError


def build(choice: Choice, *, weights: str, input_size: int | None) -> Backbone:
    """The network of a name of kind ``scratch``, freshly initialised.

    Args:
      choice: what :func:`tltf.backbones.catalog.lookup` returned.
      weights: only ``none``.
      input_size: input side in pixels; None for the default of the row.

    Raises:
      ArgumentError: any other ``weights``, or an illegal size.
    """
    entry = choice.entry
    if entry is None or entry.name not in _BUILDERS:
        raise ArgumentError(f"{choice.text} is not a network from scratch")
    if weights != "none":
        check_published(choice)
    side = input_side(entry, input_size)
    return _BUILDERS[entry.name](side, **choice.options)


def small_cnn(side: int, *, blocks: int = 3) -> Backbone:
    """Blocks of two convolutions with BatchNorm and ReLU; each halves the side.

    Args:
      side: input side in pixels, meant for 8 to 64.
      blocks: how many, at most as often as the side can be halved.

    Returns:
      ``[B, side, side, 3]`` in [0, 255] to ``[B, side // 2**blocks, side // 2**blocks, C]`` with
      C = 32 channels after the first block and twice as many after each further one.

    Raises:
      ArgumentError: more blocks than the side can be halved.
    """
    if side >> blocks < 1:
        raise ArgumentError(
            f"blocks={blocks} at {side} pixels, expected at most {side.bit_length() - 1}",
            where="--backbone=small_cnn",
            next_action="take fewer blocks or larger images",
        )
    image = keras.Input((side, side, 3), name="image")
    x = Preprocess("tf", name="preprocess")(image)
    for block in range(1, blocks + 1):
        filters = 16 * 2**block
        for number in (1, 2):
            name = f"block{block}_{{}}{number}"
            # BatchNorm has a bias of its own; its memory is short because small sets train
            # for a few hundred steps, which the usual 0.99 would not have forgotten by then.
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name.format("conv"))(
                x
            )
            x = layers.BatchNormalization(momentum=0.9, name=name.format("bn"))(x)
            x = layers.ReLU(name=name.format("relu"))(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return Backbone(image, mark(x, family="small_cnn"), name="small_cnn")


def mlp(side: int, *, units: int = 512) -> Backbone:
    """One hidden layer on the raw pixels, scaled to [0, 1].

    Args:
      side: input side in pixels.
      units: width of the layer.

    Returns:
      ``[B, side, side, 3]`` in [0, 255] to ``[B, 1, 1, units]``: a map of one position, so that
      pooling heads fit it like any other backbone.
    """
    image = keras.Input((side, side, 3), name="image")
    x: Any = Preprocess("unit", name="preprocess")(image)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(units, activation="relu", name="dense")(x)
    x = layers.Reshape((1, 1, units), name="map")(x)
    return Backbone(image, mark(x, family="mlp"), name="mlp")


_BUILDERS = {"small_cnn": small_cnn, "mlp": mlp}
