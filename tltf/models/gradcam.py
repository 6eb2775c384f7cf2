"""Which part of an image speaks for a class: Grad-CAM (Selvaraju et al. 2017)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf.backbones.network import Backbone
from tltf.errors import ArgumentError
from tltf.models import heads
from tltf.models.classifier import backbone_of
from tltf.models.tappool import TapPool, tap_layer

FINEST = 28
"""Side of the grid that the maps of several taps are added on, at most."""


def grad_cam(model: keras.Model, images: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Heat maps of the last feature map, for any model of :func:`tltf.classifier`.

    ``relu(sum_k w_k A_k)`` with ``A`` the feature maps and ``w_k`` the mean over positions of the
    gradient of the class's logit with respect to ``A_k`` (eq. 1 and 2), divided by its maximum.
    The pooling stands outside the backbone, so that the map is a tensor of the outer model: in a
    nested, reloaded or frozen model too.

    A stacked probe reads several maps. There each map's share is ``sum_k dz/dA_k A_k`` at every
    position. Mean, deviation and quadrants grow in proportion with the map, and the head is
    linear: so the shares of all positions of all maps add up to the logit less its bias (Euler's
    theorem). They are added on the grid of the finest map, of at most 28 cells a side.

    Args:
      model: from :func:`tltf.classifier`, or reloaded.
      images: float ``[B, S, S, 3]`` in [0, 255].
      class_ids: int ``[B]``, which logit is to be explained.

    Returns:
      float32 ``[B, h, w]`` in [0, 1], at the size of the feature map; all zero where nothing
      speaks for the class.

    Raises:
      ArgumentError: a model without a backbone, or one whose features are no map.
    """
    backbone = backbone_of(model)
    if backbone is None:
        raise ArgumentError(
            "the model has no Backbone layer, so its last feature map is not known",
            where="grad_cam",
            next_action="build it with tltf.classifier",
        )
    pixels, ids = tf.convert_to_tensor(images, tf.float32), tf.constant(class_ids, tf.int32)
    head, taps = model.get_layer(heads.HEAD), tap_layer(backbone)
    if taps is None:
        heat = _of_last_map(backbone, head, pixels, ids)
    else:
        heat = sum_on_grid(tap_shares(backbone, taps, head, pixels, ids))
    heat = tf.nn.relu(heat)
    largest = tf.reduce_max(heat, axis=(1, 2), keepdims=True)
    return np.asarray(tf.math.divide_no_nan(heat, largest))


def tap_shares(
    backbone: Backbone, taps: TapPool, head: Any, images: tf.Tensor, class_ids: tf.Tensor
) -> list[tf.Tensor]:
    """What each position of each map that is pooled adds to the logit, ``[B, h, w]`` each.

    Raises:
      ArgumentError: what is pooled are no maps.
    """
    tensors = taps.input if isinstance(taps.input, list | tuple) else [taps.input]
    found = keras.Model(backbone.inputs, tensors)(images, training=False)
    # A map that is pooled in several ways is several inputs here: each has its own share.
    maps = [
        tf.identity(tf.cast(x, tf.float32)) for x in (found if isinstance(found, list) else [found])
    ]
    for one in maps:
        _check_map(one)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = tf.cast(head(taps(maps), training=False), tf.float32)
        chosen = tf.gather(logits, class_ids, batch_dims=1)
    slopes = tape.gradient(chosen, maps)
    return [tf.reduce_sum(a * b, axis=-1) for a, b in zip(slopes, maps, strict=True)]


def sum_on_grid(shares: list[tf.Tensor]) -> tf.Tensor:
    """Maps ``[B, h, w]`` of several sizes on one grid; each keeps its sum."""
    side = max(min(FINEST, int(share.shape[1])) for share in shares)
    total = 0.0
    for share in shares:
        kept = tf.reduce_sum(share, axis=(1, 2), keepdims=True)
        # By area a coarse cell is spread over the fine ones that it covers.
        moved = tf.image.resize(share[..., None], (side, side), method="area")[..., 0]
        cells = float(share.shape[1] * share.shape[2]) / side**2
        moved = moved * cells
        total += moved + (kept - tf.reduce_sum(moved, axis=(1, 2), keepdims=True)) / side**2
    return total


def _of_last_map(backbone: Backbone, head: Any, images: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    maps = tf.cast(backbone(images, training=False), tf.float32)
    _check_map(maps)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = tf.cast(head(maps, training=False), tf.float32)
        chosen = tf.gather(logits, ids, batch_dims=1)
    slopes = tape.gradient(chosen, maps)
    weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(weights * maps, axis=-1)


def _check_map(maps: tf.Tensor) -> None:
    if maps.shape.rank != 4:
        raise ArgumentError(
            f"features of shape {list(maps.shape)}, expected a map [B, h, w, channels]",
            where="grad_cam",
        )
