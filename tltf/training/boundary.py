"""The cut between what a phase leaves frozen and what it trains.

The frozen prefix is the largest part of the model whose result cannot change during the
phase: every layer in it is frozen, and so is everything below. The tensors that cross from
it into the rest are what a :class:`~tltf.training.featurestore.FeatureStore` keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras

from tltf.backbones.network import Backbone
from tltf.models import heads
from tltf.models.classifier import backbone_of
from tltf.training.freezing import leaves


@dataclass(frozen=True)
class Boundary:
    """A model in two parts that share its variables.

    Args:
      prefix: from images ``[B, H, W, 3]`` to the list of crossing tensors.
      tail: from the list of crossing tensors to logits; everything that trains is in it.
      names: what the crossing tensors are called.
      shapes: their shapes without the batch axis.
      crossing: the symbolic tensors in the backbone's graph; none for pooled features.
    """

    prefix: keras.Model
    tail: keras.Model
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    crossing: tuple[Any, ...] = ()

    @property
    def pooled(self) -> bool:
        """Whether the whole backbone is frozen, so that one vector per example is enough."""
        return not self.crossing

    @property
    def values(self) -> int:
        """Numbers per example that cross."""
        return sum(math.prod(shape) for shape in self.shapes)

    def __str__(self) -> str:
        pairs = zip(self.names, self.shapes, strict=True)
        return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in pairs)


def split(model: keras.Model) -> Boundary | None:
    """Cuts a :func:`~tltf.models.classifier.classifier` whose ``trainable`` flags are set.

    Returns:
      None when nothing is frozen below the trained part, or when the model has no Backbone
      whose layers can be seen: then there is nothing to keep.
    """
    backbone = backbone_of(model)
    if backbone is None:
        return None
    head = model.get_layer(heads.HEAD)
    if not backbone.trainable_variables:
        return _below_head(model, backbone, head)
    crossing = crossing_tensors(backbone)
    if not crossing or any(tensor is t for tensor in crossing for t in backbone.inputs):
        return None
    prefix = keras.Model(backbone.input, crossing, name="prefix")
    if not prefix.weights:
        return None  # only preprocessing: as many numbers as the images themselves
    inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in crossing]
    upper = Backbone(crossing, backbone.outputs[0], name="upper")
    tail = keras.Model(inputs, head(upper(inputs)), name="tail")
    # seam: KerasTensor._keras_history
    names = tuple(t._keras_history.operation.name for t in crossing)
    shapes = tuple(tuple(t.shape[1:]) for t in crossing)
    return Boundary(prefix, tail, names=names, shapes=shapes, crossing=tuple(crossing))


def pooled_above(model: keras.Model, lower: Boundary) -> keras.Model:
    """From the tensors that cross at ``lower`` to pooled features, the rest of the way."""
    backbone = backbone_of(model)
    inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in lower.crossing]
    upper = Backbone(list(lower.crossing), backbone.outputs[0], name="upper")
    pool = model.get_layer(heads.HEAD).get_layer(heads.POOL)
    return keras.Model(inputs, [pool(upper(inputs))], name="pooled_above")


def crossing_tensors(backbone: Backbone) -> list[Any]:
    """The outputs of the frozen prefix that the rest of the network reads, in graph order.

    A tensor is frozen when the layer that makes it is, and all that it reads is. Layers
    without weights count as they are flagged: the Dropout of an unfrozen block draws anew at
    each step, so what comes out of it cannot be kept.

    Of the legal cuts the highest is taken, less those layers on top of it that cost next to
    nothing and whose inputs are fewer numbers than their outputs: DenseNet's frozen
    normalisation at the foot of an unfrozen block would double what is stored.
    """
    nodes = _nodes(backbone)
    kept = _frozen_nodes(nodes, backbone)
    best = _crossing(nodes, kept, backbone)
    while True:
        smaller = None
        for node in kept:
            if any(t is out for t in best for out in node.outputs) and _is_cheap(node.operation):
                found = _crossing(nodes, [n for n in kept if n is not node], backbone)
                if _values(found) < _values(best):
                    smaller, best = node, found
        if smaller is None:
            return best
        kept = [n for n in kept if n is not smaller]


def _frozen_nodes(nodes: list[Any], backbone: Backbone) -> list[Any]:
    frozen = {id(tensor) for tensor in backbone.inputs}
    kept = []
    for node in nodes:
        if _is_frozen(node.operation) and all(id(t) in frozen for t in node.input_tensors):
            frozen |= {id(t) for t in node.outputs}
            kept.append(node)
    return kept


def _crossing(nodes: list[Any], kept: list[Any], backbone: Backbone) -> list[Any]:
    """What the nodes that are not kept read of the inputs and of the kept ones."""
    made = {id(t) for t in backbone.inputs} | {id(t) for node in kept for t in node.outputs}
    inside = {id(node) for node in kept}
    read = {
        id(t): t
        for node in nodes
        if id(node) not in inside
        for t in node.input_tensors
        if id(t) in made
    }
    return list(read.values())


def _values(tensors: list[Any]) -> int:
    return sum(math.prod(t.shape[1:]) for t in tensors)


def _below_head(model: keras.Model, backbone: Backbone, head: keras.Sequential) -> Boundary:
    """With the whole backbone frozen even its pooling can be kept: one vector per example."""
    pool = head.get_layer(heads.POOL)
    images = keras.Input(model.input_shape[1:], dtype="float32")
    pooled = pool(backbone(images))
    prefix = keras.Model(images, [pooled], name="prefix")
    features = keras.Input(pooled.shape[1:], dtype="float32")
    x = features
    for layer in head.layers:
        if layer is not pool:
            x = layer(x)
    tail = keras.Model([features], x, name="tail")
    shapes = (tuple(pooled.shape[1:]),)
    return Boundary(prefix, tail, names=("pooled features",), shapes=shapes)


def _nodes(backbone: Backbone) -> list[Any]:
    """The graph's nodes, bottom to top. seam: Function._nodes_by_depth"""
    by_depth = backbone._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if node.operation is not None and not node.is_input
    ]


def _is_frozen(operation: Any) -> bool:
    """Whether nothing below a layer can change; a container's own flag says nothing of that."""
    if not isinstance(operation, keras.layers.Layer):
        return True
    return not any(leaf.trainable for leaf in leaves(operation))


def _is_cheap(operation: Any) -> bool:
    """Element-wise work, pooling, padding: done again at each step for less than a read costs."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    return all(len(weight.shape) < 2 for weight in operation.weights)
