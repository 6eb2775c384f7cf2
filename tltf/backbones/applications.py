"""Backbones from ``keras.applications``: preprocessing in front, official or own weights inside."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from tltf.backbones import official
from tltf.backbones import weights as weight_files
from tltf.backbones.catalog import Choice, Entry, check_published, input_side
from tltf.backbones.layers import Normalization, Preprocess
from tltf.backbones.network import Backbone, mark
from tltf.errors import ArgumentError, DataError, TltfError


def build(choice: Choice, *, weights: str, input_size: int | None) -> Backbone:
    """The backbone that a name of the table asks for.

    Args:
      choice: what :func:`tltf.backbones.catalog.lookup` returned, of kind ``applications``.
      weights: ``imagenet``, ``none``, or the path of a weights file.
      input_size: input side in pixels; None for the default of the row.

    Returns:
      ``[B, side, side, 3]`` in [0, 255] to the last feature map ``[B, h, w, channels]``.

    Raises:
      ArgumentError: an illegal size, or options without published weights.
      DownloadError: official weights neither in the cache nor to be had.
      InputMissingError: no file at the path.
      DataError: weights that are damaged, not finite, or of another architecture.
    """
    check_channels_last()
    entry = choice.entry
    if entry is None:
        raise ArgumentError(f"{choice.text} is not a keras.applications model")
    side = input_side(entry, input_size)
    if weights == "imagenet":
        check_published(choice)
        model = _official(choice, entry, side)
    else:
        model = _plain(choice, entry, side)
    if weights not in ("imagenet", "none"):
        weight_files.load_weights(model, weights)
    if weights != "none":
        weight_files.refresh(model)
        weight_files.check_finite(model, where=weights)
    scale = _missing_scale(model, entry) if weights not in ("imagenet", "none") else None
    own_arithmetic = entry.preprocessing == "inside"
    if own_arithmetic and (_half_precision() or entry.family == "efficientnet"):
        model = _rebuilt(model, scale)
    inputs = model.inputs[0]
    return Backbone(inputs, mark(model.outputs[0], family=entry.family), name=model.name)


def constructor(entry: Entry) -> Callable[..., keras.Model]:
    """The ``keras.applications`` function of a row."""
    return getattr(keras.applications, entry.name)


def classifier_of(backbone: Backbone, choice: Choice) -> keras.Model | None:
    """What the network itself said of its source classes: last feature map to probabilities.

    Nothing is downloaded for it.

    Args:
      backbone: of ``choice``, with official weights and at its usual size.
      choice: of kind ``applications``.

    Returns:
      A model from ``backbone``'s output to ``[B, 1000]``; None where the file with the classifier
      is not in the cache or does not fit.
    """
    entry = choice.entry
    if entry is None or choice.kind != "applications" or not official.in_cache(choice, top=True):
        return None
    try:
        with weight_files.official_files():
            whole = constructor(entry)(include_top=True, weights="imagenet", **choice.options)
        names = {layer.name for layer in whole.layers}
        # the last layer of a Backbone only marks its output
        [name] = [layer.name for layer in backbone.layers if layer.name in names][-1:]
        last = whole.get_layer(name)
    except (TltfError, ValueError, OSError) as error:
        logging.warning("%s: its source classifier cannot be used: %s", choice.text, error)
        return None
    if last.output.shape[1:] != backbone.output.shape[1:]:
        return None
    return keras.Model(last.output, whole.output, name="source_classifier")


def check_channels_last() -> None:
    """Raises ArgumentError under the other image layout, which TensorFlow lacks on CPUs."""
    if keras.config.image_data_format() != "channels_last":
        raise ArgumentError(
            "Keras is set to channels_first, expected channels_last",
            where="keras.json",
            next_action="call keras.config.set_image_data_format('channels_last')",
        )


def _official(choice: Choice, entry: Entry, side: int) -> keras.Model:
    """The network with Keras' own weights, from the cache or the network."""
    with weight_files.official_files(), warnings.catch_warnings():
        # sizes that MobileNet has no own weights for take the 224 ones, as they should
        warnings.filterwarnings("ignore", message=".*is undefined or non-square.*")
        try:
            return _plain(choice, entry, side, weights="imagenet")
        except (ValueError, OSError, KeyError) as error:
            if isinstance(error, TltfError):
                raise
            raise DataError(
                f"the official weights of {choice.text} do not fit: {error}",
                where=weight_files.cache_folder(),
                next_action="delete the file there, it is fetched again",
            ) from error


def _plain(choice: Choice, entry: Entry, side: int, *, weights: str | None = None) -> keras.Model:
    """Keras' own function, called with preprocessing in front of it."""
    function = constructor(entry)
    image = keras.Input((side, side, 3), name="image")
    front = image
    if entry.preprocessing != "inside":
        front = Preprocess(entry.preprocessing, name="preprocess")(image)
    options: dict[str, Any] = dict(choice.options)
    if "include_preprocessing" in inspect.signature(function).parameters:
        options["include_preprocessing"] = True
    return function(
        include_top=False,
        weights=weights,
        input_tensor=front,
        input_shape=(side, side, 3),
        pooling=None,
        **options,
    )


def _half_precision() -> bool:
    return keras.config.dtype_policy().compute_dtype != "float32"


def _missing_scale(model: keras.Model, entry: Entry) -> list[float] | None:
    """The scale that EfficientNet needs when its weights come from a file, else None.

    Keras divides by the standard deviation once more, in a layer that it only adds for
    ``weights="imagenet"``. Weights whose stored mean is not zero are of that kind.
    """
    if entry.family != "efficientnet":
        return None
    normal = next(x for x in model.layers if isinstance(x, keras.layers.Normalization))
    if not keras.ops.convert_to_numpy(normal.adapt_mean).any():
        return None
    deviations = sys.modules[constructor(entry).__module__].IMAGENET_STDDEV_RGB
    return [1.0 / math.sqrt(deviation) for deviation in deviations]


def _rebuilt(model: keras.Model, scale: list[float] | None) -> keras.Model:
    """The same network with its own preprocessing in float32, and rescaled if need be."""

    def remade(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Normalization):
            return Normalization.from_config(config)
        if isinstance(layer, keras.layers.Rescaling):
            config["dtype"] = "float32"
        return type(layer).from_config(config)

    def called(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        result = layer(*args, **kwargs)
        if scale and isinstance(layer, keras.layers.Normalization):
            result = keras.layers.Rescaling(scale, dtype="float32")(result)
        return result

    clone = keras.models.clone_model(model, clone_function=remade, call_function=called)
    clone.set_weights(model.get_weights())
    return clone
