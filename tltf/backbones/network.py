"""Backbone: a functional model that is quiet wherever it is frozen.

seam: ``Functional._standardize_inputs(inputs)`` and
``Functional._run_through_graph(inputs, operation_fn=...)``: Keras passes one ``training`` to all
layers of a functional model, and inside ``fit`` overwrites a ``training=False`` that was given
when the model was called (keras#20285). Running the graph with a value per layer is the cure.
seam: ``KerasTensor._keras_history.operation``: the layer that made a symbolic tensor.
seam: ``tensor._keras_mask``: where Keras keeps a mask that is passed explicitly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tltf.backbones import blocks
from tltf.backbones.hub.layer import SavedModelLayer
from tltf.backbones.layers import Features
from tltf.backbones.tokens import tokens_layer
from tltf.data.wordpiece import WordPiece
from tltf.errors import ArgumentError


@keras.saving.register_keras_serializable(package="tltf")
class Backbone(keras.Model):
    """A pretrained network from raw input to features, with its preprocessing and its blocks.

    Frozen means inference behaviour, inside an outer model's ``fit`` too:

    - with ``trainable=False`` or ``inference_mode=True`` every layer runs with ``training=False``;
    - otherwise each inner layer whose own ``trainable`` is False runs with ``training=False``,
      so the Dropout of a frozen block is silent, and its BatchNorm statistics do not move.

    A change of either takes effect at the next ``compile``. All of it survives ``.keras`` files,
    ``clone_model`` and export.

    Args:
      inputs: ``keras.Input`` or any symbolic tensor(s); images are ``[B, H, W, 3]`` in [0, 255].
      outputs: symbolic tensor(s), for images the last feature map ``[B, h, w, channels]``.
      name: the model's name.

    Example::

      base = tltf.backbone("MobileNetV2")
      base.trainable = False
      pooled = keras.layers.GlobalAveragePooling2D()(base.output)
      model = keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), head])
    """

    # Keras turns a keras.Model subclass that is constructed like this into a functional one.
    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any) -> None:
        if not isinstance(_maker(outputs), Features):
            outputs = Features()(outputs)
        super().__init__(inputs, outputs, name=name, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Runs the network.

        Args:
          inputs: as the model's inputs, batch first.
          training: whether the layers that are not frozen train.
          mask: optional masks, in the structure of the inputs.

        Returns:
          Tensor(s) in the structure of ``outputs``.
        """
        if self.inference_mode or not self.trainable:
            training = False
        return _run(self, inputs, training, mask)

    @property
    def inference_mode(self) -> bool:
        """Whether everything runs with ``training=False`` although weights may be trainable.

        It makes no difference to gradients: kernels learn, statistics and Dropout stand still.
        """
        return _maker(self.outputs).inference_mode

    @inference_mode.setter
    def inference_mode(self, value: bool) -> None:
        _maker(self.outputs).inference_mode = bool(value)

    @property
    def family(self) -> str:
        """The key of the rule that names the blocks, empty for the general rule."""
        return _maker(self.outputs).family

    @property
    def tokenizer(self) -> WordPiece | None:
        """From strings to the token ids that the network reads; None for images."""
        layer = tokens_layer(self)
        return layer.tokenizer if layer is not None else None

    @property
    def blocks(self) -> dict[str, list[keras.layers.Layer]]:
        """Block names to layers, bottom to top; every layer stands in exactly one block.

        The blocks of a SavedModel are those of its parts, which the layers around it join.
        """
        module = next((x for x in self.layers if isinstance(x, SavedModelLayer)), None)
        if module is not None and module.parts:
            return _around(module, self.layers)
        found: dict[str, list[keras.layers.Layer]] = {}
        names = blocks.assign(_facts(self.layers), self.family)
        for name, layer in zip(names, self.layers, strict=True):
            found.setdefault(name, []).append(layer)
        return found


def _around(module: SavedModelLayer, layers: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: list(parts) for name, parts in module.blocks.items()}
    names, at = list(found), layers.index(module)
    found[names[0]][:0] = layers[:at]
    found[names[-1]] += layers[at + 1 :]
    return found


def as_backbone(model: keras.Model, *, input_size: int | None = None) -> Backbone:
    """Anybody's Keras model as a Backbone; the layers and their variables are shared.

    Args:
      model: a functional or Sequential model, taken as it is, without preprocessing being added;
        or a subclassed model, which becomes one block.
      input_size: side in pixels of the square RGB input, for a subclassed model only.

    Returns:
      The model itself if it is a Backbone already.

    Raises:
      ArgumentError: not a Keras model, one without known input shape, or a subclassed one
        without ``input_size``.

    Example::

      base = as_backbone(keras.applications.ResNet50(include_top=False))
    """
    if isinstance(model, Backbone):
        return model
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            f"got {type(model).__name__}, expected a keras.Model",
            next_action="pass a functional or Sequential model",
        )
    if not (_is_functional(model) or isinstance(model, keras.Sequential)):
        return _wrapped(model, input_size)
    if isinstance(model, keras.Sequential) and not model.built:
        raise ArgumentError(
            f"the Sequential model {model.name!r} has no input shape yet",
            next_action="begin it with keras.Input((height, width, 3))",
        )
    if isinstance(model, keras.Sequential):
        inputs, outputs = model.inputs[0], model.outputs[0]
    else:
        inputs, outputs = _unpacked(model.input), _unpacked(model.output)
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    family = blocks.family_of(model.name, _facts(layers))
    return Backbone(inputs, mark(outputs, family=family), name=model.name)


def mark(outputs: Any, *, family: str) -> Any:
    """The outputs behind a :class:`Features` layer that names the family's block rule."""
    return Features(family=family)(outputs)


def _wrapped(model: keras.Model, input_size: int | None) -> Backbone:
    if input_size is None:
        raise ArgumentError(
            f"{type(model).__name__} is a subclassed model, whose layers cannot be seen",
            where="as_backbone",
            next_action="build it as a functional model, or pass input_size to use it as one block",
        )
    inputs = keras.Input((input_size, input_size, 3))
    return Backbone(inputs, mark(model(inputs), family=""), name=f"{model.name}_backbone")


def _run(model: Any, inputs: Any, training: bool | None, mask: Any = None) -> Any:
    """Functional's own ``call`` with a training argument per layer (see the seams above)."""
    flat = model._standardize_inputs(inputs)
    if mask is not None:
        for tensor, own in zip(flat, keras.tree.flatten(mask), strict=True):
            if own is not None:
                tensor._keras_mask = own
    return _unpacked(
        model._run_through_graph(flat, operation_fn=lambda layer: _quiet(layer, training))
    )


def _quiet(operation: Any, training: bool | None) -> Callable[..., Any]:
    """The operation, called with ``training=False`` where it is frozen."""
    if not isinstance(operation, keras.Layer):
        return operation
    if not operation.trainable:
        training = False

    def call(*args: Any, **kwargs: Any) -> Any:
        if training is not False and _needs_descent(operation):
            return _descend(operation, *args, training=training)
        if training is not None:
            kwargs["training"] = training
        return operation(*args, **kwargs)

    return call


def _needs_descent(layer: keras.Layer) -> bool:
    """A plain nested model, trainable as a whole, in which some layer is frozen.

    Only then its own ``call`` would disturb a frozen layer; a nested Backbone takes care itself.
    """
    if isinstance(layer, Backbone):
        return False
    if not (_is_functional(layer) or isinstance(layer, keras.Sequential)):
        return False
    return any(not inner.trainable or _needs_descent(inner) for inner in layer.layers)


def _descend(model: keras.Model, inputs: Any, *, training: bool | None) -> Any:
    """A nested model, layer by layer."""
    if not isinstance(model, keras.Sequential):
        return _run(model, inputs, training)
    for layer in model.layers:
        inputs = _quiet(layer, training)(inputs)
    return inputs


def _is_functional(model: object) -> bool:
    return hasattr(model, "_run_through_graph") and isinstance(model, keras.Model)


def _maker(tensors: Any) -> Any:
    """The layer that made the first of some symbolic tensors, None for anything else."""
    history = getattr(keras.tree.flatten(tensors)[0], "_keras_history", None)
    return history.operation if history else None


def _unpacked(tensors: Any) -> Any:
    one = isinstance(tensors, list | tuple) and len(tensors) == 1
    return tensors[0] if one else tensors


def _facts(layers: list[keras.layers.Layer]) -> list[blocks.LayerFacts]:
    return [
        blocks.LayerFacts(
            layer.name,
            type(layer).__name__,
            any(len(weight.shape) >= 2 for weight in layer.weights),
        )
        for layer in layers
    ]
