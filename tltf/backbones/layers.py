"""The small layers that make a network a backbone: what goes in front and what comes last."""

from __future__ import annotations

from typing import Any

import keras

from tltf.errors import ArgumentError

MODES = ("caffe", "tf", "torch", "unit", "bytes")


@keras.saving.register_keras_serializable(package="tltf")
class Preprocess(keras.layers.Layer):
    """Raw images to what the pretrained weights expect, in float32 under every dtype policy.

    Half precision here would cost the low bits of every pixel before the first convolution sees
    them. ``caffe`` (BGR minus the mean), ``tf`` ([-1, 1]) and ``torch`` (standardised) are
    ``keras.applications.imagenet_utils.preprocess_input``; ``unit`` is x / 255, and ``bytes``
    rounds to uint8.

    Args:
      mode: one of :data:`MODES`.

    Call args:
      images: ``[B, H, W, 3]``, RGB in [0, 255], any number type.

    Returns:
      float32 of the same shape, or uint8 for ``bytes``.

    Raises:
      ArgumentError: another mode.

    Example::

      Preprocess("tf")(images)  # in [-1, 1]
    """

    def __init__(self, mode: str, **kwargs: Any) -> None:
        if mode not in MODES:
            raise ArgumentError(f"mode={mode!r}, expected one of {', '.join(MODES)}")
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.mode = mode

    def call(self, images: Any) -> Any:
        """See the class."""
        images = keras.ops.cast(images, "float32")
        if self.mode == "unit":
            return images / 255.0
        if self.mode == "bytes":
            return keras.ops.cast(keras.ops.clip(keras.ops.round(images), 0, 255), "uint8")
        return keras.applications.imagenet_utils.preprocess_input(
            images, data_format="channels_last", mode=self.mode
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "mode": self.mode}


@keras.saving.register_keras_serializable(package="tltf")
class Normalization(keras.layers.Normalization):
    """Keras' layer of that name, in float32, computing with its weights as they are now.

    Keras computes with constants that it derives from the weights when a file is loaded;
    ``set_weights`` and ``assign`` leave the old ones, and EfficientNet then standardises by mean
    0 and variance 1 without a word. The class keeps its name so that weight files fit both.

    Call args:
      images: ``[..., channels]``, any number type.

    Returns:
      float32 of the same shape, (images - mean) / sqrt(variance).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs: Any) -> Any:
        """See the class."""
        if self.input_mean is not None:
            return super().call(inputs)
        deviation = keras.ops.sqrt(keras.ops.convert_to_tensor(self.adapt_variance))
        deviation = keras.ops.maximum(deviation, keras.config.epsilon())
        centred = keras.ops.cast(inputs, "float32") - keras.ops.convert_to_tensor(self.adapt_mean)
        return centred / deviation


@keras.saving.register_keras_serializable(package="tltf")
class Features(keras.layers.Layer):
    """The last layer of every Backbone: hands the feature map on unchanged.

    It is there for what it carries. ``keras.models.clone_model`` and graph surgery rebuild a
    functional model from its layers alone, so what should survive them must be stored in a layer.

    Args:
      family: the key of the block rule (:mod:`tltf.backbones.blocks`), empty for the general one.
      inference_mode: see :class:`tltf.backbones.network.Backbone`.
    """

    def __init__(self, family: str = "", inference_mode: bool = False, **kwargs: Any) -> None:
        # no autocast: the map leaves in the dtype in which the network computed it
        super().__init__(**{"autocast": False, **kwargs})
        self.family = family
        self.inference_mode = inference_mode
        self.supports_masking = True

    def call(self, features: Any) -> Any:
        """The features themselves."""
        return features

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "family": self.family,
            "inference_mode": self.inference_mode,
        }
