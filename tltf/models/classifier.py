"""The one place where input, backbone and head become a model."""

from __future__ import annotations

import keras

from tltf.backbones.network import Backbone, as_backbone
from tltf.models import heads
from tltf.models.tappool import tap_layer


def classifier(
    backbone: keras.Model, head: keras.Model | keras.layers.Layer, *, name: str = "classifier"
) -> keras.Model:
    """input -> backbone -> head, as a functional model from images to logits.

    Args:
      backbone: a :class:`tltf.backbones.network.Backbone`, or any functional or Sequential
        ``keras.Model``, whose layers are then shared, not copied.
      head: from the backbone's output to logits, usually :func:`tltf.head`.

    Returns:
      A ``keras.Model``: float images ``[B, H, W, 3]`` in [0, 255], or token ids ``[B, L]``, ->
      float32 logits.

    Example::

      model = tltf.classifier(tltf.backbone("MobileNetV2"), tltf.head(3))
    """
    backbone = as_backbone(backbone)
    text = backbone.tokenizer is not None
    inputs = keras.Input(
        backbone.input_shape[1:],
        name="tokens" if text else "image",
        dtype="int32" if text else "float32",
    )
    return keras.Model(inputs, head(backbone(inputs)), name=name)


def backbone_of(model: keras.Model) -> Backbone | None:
    """The model's Backbone layer, or None when it has none."""
    return next((layer for layer in model.layers if isinstance(layer, Backbone)), None)


def feature_model(model: keras.Model) -> keras.Model:
    """The part of a :func:`classifier` up to the pooled features ``[B, D]``, shared variables.

    Where the head reads several taps, the features are the last of them, the top of the network.
    """
    backbone, head = backbone_of(model), model.get_layer(heads.HEAD)
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    pooled = head.get_layer(heads.POOL)(backbone(inputs))
    return keras.Model(inputs, _last_tap(backbone, pooled), name="features")


def with_features(model: keras.Model) -> keras.Model | None:
    """The model with two outputs, pooled features ``[B, D]`` and logits; shared variables.

    None for a model that was not put together by :func:`classifier` and :func:`tltf.head`.
    """
    backbone = backbone_of(model)
    head = next((layer for layer in model.layers if layer.name == heads.HEAD), None)
    if backbone is None or not isinstance(head, keras.Sequential):
        return None
    if head.layers[0].name != heads.POOL:
        return None
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    pooled = x = head.layers[0](backbone(inputs))
    for layer in head.layers[1:]:
        x = layer(x)
    return keras.Model(inputs, [_last_tap(backbone, pooled), x], name="with_features")


def _last_tap(backbone: Backbone, pooled: keras.KerasTensor) -> keras.KerasTensor:
    layer = tap_layer(backbone)
    return pooled if layer is None else pooled[:, -layer.last_width :]
