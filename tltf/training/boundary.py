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
from tltf.training import cost
from tltf.training.freezing import leaves

FLOPS_A_BYTE = 50.0
"""Operations that take as long as reading, converting and feeding one byte, on a CPU: about
50 GFLOP/s of small convolutions against 1 GB/s (docs/speed.md)."""
BYTES_A_VALUE = 2


@dataclass(frozen=True)
class Boundary:
    """A model in two parts that share its variables.

    Args:
      prefix: from images ``[B, H, W, 3]`` or token ids ``[B, L]`` to the list of crossing tensors.
      tail: from the list of crossing tensors to logits; everything that trains is in it.
      names: what the crossing tensors are called.
      shapes: their shapes without the batch axis; None is the axis of tokens.
      crossing: the symbolic tensors in the backbone's graph; none for pooled features.
      flops: floating-point operations per example that the prefix takes.
      share: of those that the whole forward pass takes.
      kinds: numpy dtypes of the crossing tensors as computed.
    """

    prefix: keras.Model
    tail: keras.Model
    names: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    crossing: tuple[Any, ...] = ()
    flops: float = 0.0
    share: float = 1.0
    kinds: tuple[str, ...] = ()

    @property
    def pooled(self) -> bool:
        """Whether the whole backbone is frozen, so that one vector per example is enough."""
        return not self.crossing

    @property
    def values(self) -> int:
        """Numbers per example that cross; per token, where there is an axis of tokens."""
        return sum(math.prod(side or 1 for side in shape) for shape in self.shapes)

    def __str__(self) -> str:
        pairs = zip(self.names, self.shapes, strict=True)
        return ", ".join(
            f"{name} {'x'.join('tokens' if side is None else str(side) for side in shape)}"
            for name, shape in pairs
        )


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
    cut = _best_cut(backbone)
    crossing = cut.crossing
    own = {id(t) for t in backbone.inputs}
    if all(id(t) in own for t in crossing):
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
    return Boundary(
        prefix,
        tail,
        names=names,
        shapes=shapes,
        crossing=tuple(crossing),
        flops=cut.flops,
        share=cut.flops / max(1.0, cost.graph_flops(backbone)),
        kinds=tuple(_kind(t) for t in crossing),
    )


def pooled_above(model: keras.Model, lower: Boundary) -> keras.Model:
    """From the tensors that cross at ``lower`` to pooled features, the rest of the way."""
    backbone = backbone_of(model)
    inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in lower.crossing]
    upper = Backbone(list(lower.crossing), backbone.outputs[0], name="upper")
    pool = model.get_layer(heads.HEAD).get_layer(heads.POOL)
    return keras.Model(inputs, [pool(upper(inputs))], name="pooled_above")


def crossing_tensors(backbone: Backbone) -> list[Any]:
    """The outputs of the frozen prefix that the rest of the network reads, in graph order."""
    return _best_cut(backbone).crossing


def _best_cut(backbone: Backbone) -> _Cut:
    """The cheapest of the legal cuts.

    A tensor is frozen when the layer that makes it is, and all that it reads is. Layers
    without weights count as they are flagged: the Dropout of an unfrozen block draws anew at
    each step, so what comes out of it cannot be kept.

    Every lower set of the frozen nodes is a legal cut. The highest saves most arithmetic; a
    lower one may store far less: DenseNet's frozen normalisation at the foot of an unfrozen
    block would double what is kept, and EfficientNet's maps are small behind a projection and
    six times as large behind the next expansion. A cut costs, per example and epoch, the
    arithmetic above it that is done again and the bytes that are read, a byte counting as
    :data:`FLOPS_A_BYTE` operations; the least wins, the higher one of two equals.
    """
    nodes = _nodes(backbone)
    kept = _frozen_nodes(nodes, backbone)
    total = sum(cost.node_flops(node) for node in kept)
    best: _Cut | None = None
    again = 0.0
    for end in range(len(kept), 0, -1):
        found = _crossing(nodes, kept[:end], backbone)
        price = again + FLOPS_A_BYTE * BYTES_A_VALUE * _values(found)
        if best is None or price < best.price:
            best = _Cut(found, price, flops=total - again)
        again += cost.node_flops(kept[end - 1])
        if again >= best.price:
            break
    return best or _Cut(_crossing(nodes, [], backbone), 0.0, flops=0.0)


@dataclass(frozen=True)
class _Cut:
    crossing: list[Any]
    price: float
    flops: float


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


def _kind(tensor: Any) -> str:
    """float32 for every float: what is computed in bfloat16 is stored as asked."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float32" if "float" in dtype else dtype


def _values(tensors: list[Any]) -> int:
    return sum(math.prod(side or 1 for side in t.shape[1:]) for t in tensors)


def _below_head(model: keras.Model, backbone: Backbone, head: keras.Sequential) -> Boundary:
    """With the whole backbone frozen even its pooling can be kept: one vector per example."""
    pool = head.get_layer(heads.POOL)
    images = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    pooled = pool(backbone(images))
    prefix = keras.Model(images, [pooled], name="prefix")
    features = keras.Input(pooled.shape[1:], dtype="float32")
    x = features
    for layer in head.layers:
        if layer is not pool:
            x = layer(x)
    tail = keras.Model([features], x, name="tail")
    shapes = (tuple(pooled.shape[1:]),)
    return Boundary(
        prefix,
        tail,
        names=("pooled features",),
        shapes=shapes,
        flops=cost.graph_flops(backbone),
        kinds=("float32",),
    )


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
