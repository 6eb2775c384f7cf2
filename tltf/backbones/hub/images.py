"""``hub:<folder or URL>``: a module of TF Hub's image conventions as a Backbone.

The conventions: ``[B, H, W, 3]`` RGB in [0, 1] as float32 (or bytes as uint8) to a feature
vector ``[B, D]``, or to a map; a classifier's logits serve as features too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tltf.backbones.catalog import Choice
from tltf.backbones.hub import signature
from tltf.backbones.hub.layer import SavedModelLayer
from tltf.backbones.layers import Preprocess
from tltf.backbones.network import Backbone, mark
from tltf.errors import ArgumentError, DataError, named_list

LAYER = "module"
DEFAULT_SIDE = 224
# Of several outputs, the one that is meant for transfer.
FEATURES = ("feature_vector", "features", "default", "pooled_output", "logits")


def build(layer: SavedModelLayer, choice: Choice, *, input_size: int | None) -> Backbone:
    """The backbone around a module that takes images.

    Args:
      layer: the module, of which nothing is frozen.
      choice: the name that was asked for.
      input_size: side in pixels; None for the signature's, or 224 where that is free.

    Returns:
      ``[B, side, side, 3]`` in [0, 255] to ``[B, h, w, channels]``; a feature vector is a map of
      one position.

    Raises:
      ArgumentError: another size than the signature's, or an output that is not one of features.
    """
    wanted = image_spec(layer)
    if wanted is None:
        takes = signature.told(layer.module.takes[0]) if layer.module else "nothing"
        raise DataError(
            f"this module takes {takes}, expected images [B, H, W, 3] or text",
            where=choice.text,
            next_action="use it as tltf.SavedModelLayer in your own model",
        )
    side = _side(wanted.shape.as_list(), input_size, choice)
    image = keras.Input((side, side, 3), name="image")
    mode = "unit" if wanted.dtype.is_floating else "bytes"
    x = Preprocess(mode, name="preprocess")(image)
    choose_features(layer, x, choice)
    return Backbone(image, mark(_as_map(layer(x), choice), family=""), name="hub")


def image_spec(layer: SavedModelLayer) -> Any:
    """The signature's image input, None if the module takes something else."""
    for wanted in layer.module.takes if layer.module else ():
        if isinstance(wanted, Mapping | list | tuple):
            continue
        pixels = wanted.dtype.is_floating or wanted.dtype.name == "uint8"
        if pixels and wanted.shape.rank == 4 and wanted.shape[-1] in (3, None):
            return wanted
    return None


def choose_features(layer: SavedModelLayer, inputs: Any, choice: Choice) -> None:
    """Sets the layer's ``output_key`` if the module gives several outputs and none was asked for.

    Raises:
      ArgumentError: none of them has a name that says it is for transfer.
    """
    outputs = layer.compute_output_spec(inputs)
    if not isinstance(outputs, Mapping):
        return
    known = [key for key in FEATURES if key in outputs]
    if not known and len(outputs) > 1:
        raise ArgumentError(
            f"the module gives {named_list(sorted(outputs), most=9)}",
            where=choice.text,
            next_action=f"say which: hub:{choice.path}#{sorted(outputs)[0]}",
        )
    layer.output_key = known[0] if known else next(iter(outputs))


def _side(shape: list[int | None], asked: int | None, choice: Choice) -> int:
    height, width = shape[1:3]
    if height != width:
        raise ArgumentError(
            f"the module takes images of {height} x {width}, expected square ones",
            where=choice.text,
            next_action="use it as tltf.SavedModelLayer in your own model",
        )
    if height and asked not in (None, height):
        raise ArgumentError(
            f"input_size={asked}, but this module takes {height} pixels",
            where="--image_size",
            next_action=f"leave it out, or pass {height}",
        )
    return height or asked or DEFAULT_SIDE


def _as_map(features: Any, choice: Choice) -> Any:
    rank = len(features.shape)
    if rank == 2 and features.shape[-1]:
        return keras.layers.Reshape((1, 1, features.shape[-1]), name="map")(features)
    if rank == 4 and features.shape[-1]:
        return features
    raise ArgumentError(
        f"the module gives {list(features.shape)}, expected vectors [B, D] or maps [B, h, w, D]",
        where=choice.text,
    )
