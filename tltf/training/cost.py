"""Rough arithmetic of a network, enough to compare cuts: multiplications by kernels.

A kernel of ``k`` numbers that is applied at ``p`` places takes ``2 k p`` operations: exact for
convolutions (depthwise too) and dense layers. Everything else counts two for each number
it writes.
"""

from __future__ import annotations

import math
from typing import Any

import keras


def node_flops(node: Any) -> float:
    """Operations per example of one node of a functional graph."""
    operation = node.operation
    if hasattr(operation, "_nodes_by_depth"):
        return graph_flops(operation)
    written = float(sum(_numbers(t) for t in node.outputs))
    if not isinstance(operation, keras.layers.Layer):
        return 2.0 * written
    places = max((_places(t, operation) for t in node.outputs), default=1)
    kernels = sum(math.prod(w.shape) for w in operation.weights if len(w.shape) >= 2)
    if isinstance(operation, keras.layers.Embedding):
        kernels = 0
    return 2.0 * (kernels * places + written)


def graph_flops(model: Any) -> float:
    """Operations per example of a functional model's forward pass.

    seam: Function._nodes_by_depth
    """
    return sum(
        node_flops(node)
        for nodes in model._nodes_by_depth.values()
        for node in nodes
        if node.operation is not None and not node.is_input
    )


def _numbers(tensor: Any) -> int:
    return math.prod(side or 1 for side in tensor.shape[1:])


def _places(tensor: Any, layer: keras.layers.Layer) -> int:
    """At how many places of its output a layer applies its kernel: all axes but the channels."""
    sides = [side or 1 for side in tensor.shape[1:]]
    if len(sides) < 2:
        return 1
    first = getattr(layer, "data_format", None) == "channels_first"
    return math.prod(sides[1:] if first else sides[:-1])
