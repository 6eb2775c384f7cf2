"""What a frozen network computes, as JSON: everything that determines it, or an error.

Two networks with the same description and the same variables give the same features, so the
description is a part of the key of stored ones. Layers of Keras are described by their
configuration, those of installed packages by it and the package's version, tltf's own by their
source. What somebody wrote beside that is described by its code (:mod:`tltf.training.codetext`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tltf
from tltf.errors import StorageError, TltfError
from tltf.training.codetext import Described, UnknownValueError, is_foreign, qualified

# Of a layer's configuration, what does not change what it computes; its weights are in the key by
# themselves. The place and the flags of a SavedModel are such too; its SHA-256 is not.
_NO_EFFECT = {"name", "trainable", "registered_name", "batch_shape", "seed", "handle", "trains"}
_OWN_SOURCES = ("backbones", "models")


class UndescribableError(StorageError):
    """A network whose features cannot be kept, since not all that determines them is known."""


def describe_graph(model: Any) -> list[Any]:
    """What a functional model computes, without the names that differ from build to build.

    One entry per node, bottom to top: the layer, which earlier tensors it reads, and its other
    arguments: numbers, arrays, slices, in the places where they stand.

    Raises:
      UndescribableError: a layer or an argument is of a kind that cannot be described.
    """
    # seam: Function._nodes_by_depth
    number: dict[int, int] = {id(t): i for i, t in enumerate(model.inputs)}
    entries: list[Any] = [[list(t.shape[1:]) for t in model.inputs]]
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.operation is None or node.is_input:
                continue
            reads = [number[id(t)] for t in node.input_tensors]
            entries.append([describe_operation(node.operation), reads, _arguments(node)])
            for tensor in node.outputs:
                number[id(tensor)] = len(number)
    entries.append([number[id(t)] for t in model.outputs])
    return entries


def describe_operation(operation: Any) -> Any:
    """A layer, a model or an operation.

    Raises:
      UndescribableError: see :func:`describe_graph`.
    """
    code = _described(operation, type(operation)) if is_foreign(type(operation)) else None
    if hasattr(operation, "_nodes_by_depth"):
        return [code, describe_graph(operation)]
    if isinstance(operation, keras.Sequential):
        return [code, [describe_operation(layer) for layer in operation.layers]]
    parts = [qualified(type(operation)), code, _configuration(operation), _attributes(operation)]
    if isinstance(operation, keras.Layer):
        # seam: Layer._flatten_layers; of a wrapper the configuration names the class within only
        within = operation._flatten_layers(include_self=False, recursive=False)
        parts.append([describe_operation(layer) for layer in within])
    return parts


@functools.cache
def own_sources() -> str:
    """SHA-256 of the modules in which tltf's own layers are written.

    The source stands for itself: whoever changes a layer changes the key without having to think
    of it.
    """
    state = hashlib.sha256()
    root = Path(str(tltf.__file__)).parent
    for path in sorted(p for name in _OWN_SOURCES for p in (root / name).rglob("*.py")):
        state.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return state.hexdigest()


def _arguments(node: Any) -> Any:
    """What a node is called with, tensors of the graph as places."""
    return _described(node.operation, [list(node.arguments.args), dict(node.arguments.kwargs)])


def _configuration(operation: Any) -> Any:
    try:
        config = operation.get_config()
    except (NotImplementedError, TypeError):
        # Made with values that cannot be saved: what it holds is described instead.
        return ["attributes", _described(operation, _own(operation))]
    kept = _without_names(config)
    if "seed" in config and is_foreign(type(operation)):
        kept["seed"] = config["seed"]  # only of Keras' own it is known that inference ignores it
    return _described(operation, kept)


def _attributes(operation: Any) -> Any:
    """What a layer holds beside its configuration: all of a foreign one, of others what is foreign,
    such as a function that somebody gave to ``Activation`` or ``Lambda``."""
    held = _own(operation)
    if not is_foreign(type(operation)):
        held = {
            k: v
            for k, v in held.items()
            if callable(v) and is_foreign(getattr(v, "python_function", v))
        }
    return _described(operation, held)


def _is_foreign_function(value: Any) -> bool:
    within = getattr(value, "python_function", value)  # of a tf.function
    return callable(within) and is_foreign(within)


def _own(operation: Any) -> dict[str, Any]:
    """The attributes that are not those of every layer, without its layers and its variables."""
    apart = keras.Layer | keras.initializers.Initializer | keras.random.SeedGenerator
    return {
        name: value
        for name, value in sorted(vars(operation).items())
        if name not in _of_every_layer() and not isinstance(value, apart)
    }


@functools.cache
def _of_every_layer() -> frozenset[str]:
    layer = _Plain()
    # With what Keras and TensorFlow add to one that holds others.
    mine = {"layer": keras.layers.Identity(), "list": [], "pairs": {}}
    for name, value in mine.items():
        setattr(layer, name, value)
    layer(keras.Input((1,)))
    return frozenset(vars(layer)) - mine.keys()


class _Plain(keras.Layer):
    def call(self, x: Any) -> Any:
        return x


def _without_names(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if k not in _NO_EFFECT and "initializer" not in k}
        # A policy's name is what it computes in, not what it is called.
        return {k: v if k == "dtype" else _without_names(v) for k, v in sorted(kept.items())}
    if isinstance(value, list | tuple):
        return [_without_names(item) for item in value]
    return value


class _Values(Described):
    """With the values that only Keras and TensorFlow have."""

    def special(self, value: Any) -> Any:
        """As :meth:`Described.special`."""
        if isinstance(value, keras.KerasTensor):
            return ["tensor"]
        if isinstance(value, keras.Variable | tf.Variable | tf.Tensor):
            return self.array(np.asarray(keras.ops.convert_to_numpy(value)))
        if isinstance(value, tf.DType):
            return ["dtype", value.name]
        if isinstance(value, keras.DTypePolicy):
            return ["policy", value.name]
        if isinstance(value, keras.Operation):
            return describe_operation(value)
        if hasattr(value, "python_function"):  # a tf.function
            return self(value.python_function)
        if hasattr(value, "get_config") and not isinstance(value, type):
            kept = _without_names(value.get_config())
            return [self(type(value)), self(kept)]
        return super().special(value)


def _described(operation: Any, value: Any) -> Any:
    try:
        return _Values()(value)
    except UnknownValueError as error:
        name = getattr(operation, "name", type(operation).__name__)
        raise UndescribableError(
            f"features of {qualified(type(operation))} {name!r} are not kept, since what it"
            f" computes cannot be described: {error}",
        ) from error
    except TltfError:
        raise
    except Exception as error:  # somebody's get_config or property
        raise UndescribableError(
            f"features of {qualified(type(operation))} are not kept: {error}"
        ) from error
