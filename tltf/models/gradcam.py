"""Which part of an image speaks for a class: Grad-CAM (Selvaraju et al. 2017)."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tltf.errors import ArgumentError
from tltf.models import heads
from tltf.models.classifier import backbone_of


def grad_cam(model: keras.Model, images: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Heat maps of the last feature map, for any model of :func:`tltf.classifier`.

    ``relu(sum_k w_k A_k)`` with ``A`` the feature maps and ``w_k`` the mean over positions of the
    gradient of the class's logit with respect to ``A_k`` (eq. 1 and 2), divided by its maximum.
    The pooling stands outside the backbone, so that the map is a tensor of the outer model: in a
    nested, reloaded or frozen model too.

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
    maps = tf.cast(backbone(tf.convert_to_tensor(images, tf.float32), training=False), tf.float32)
    if maps.shape.rank != 4:
        raise ArgumentError(
            f"features of shape {list(maps.shape)}, expected a map [B, h, w, channels]",
            where="grad_cam",
        )
    head = model.get_layer(heads.HEAD)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = tf.cast(head(maps, training=False), tf.float32)
        chosen = tf.gather(logits, tf.constant(class_ids, tf.int32), batch_dims=1)
    slopes = tape.gradient(chosen, maps)
    weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))
    largest = tf.reduce_max(heat, axis=(1, 2), keepdims=True)
    return np.asarray(tf.math.divide_no_nan(heat, largest))
