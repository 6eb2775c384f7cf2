"""Low-rank adapters (LoRA): put on layers for a phase, and merged into their kernels at its end.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models* (2021, arXiv 2106.09685),
equation 3:

    h = W0 x + dW x = W0 x + B A x,    A: r x in,  B: out x r,

with the pretrained W0 fixed; A begins random and B with zeros, so that the first step starts from
the pretrained network. Keras stores the transposes and multiplies by alpha / r, which is 1 here. As
in the paper everything else of the adapted part is fixed too: biases and normalisation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from tltf.errors import ArgumentError

KINDS = "Dense, EinsumDense, convolutions that are not depthwise, Embedding, SelfAttention"
FACTOR = "lora_"
"""How the names of the adapters' variables begin, Keras' own too."""
# What Keras' layers adapt, by the name of the attribute.
_KERNELS = ("kernel", "embeddings")


def check_rank(rank: int, *, where: str = "enable_lora") -> None:
    """Raises ArgumentError below 1."""
    if rank < 1:
        raise ArgumentError(
            f"rank={rank}, expected at least 1", where=where, next_action="for example 8"
        )


def takes(layer: Any) -> bool:
    """Whether Keras, or a layer of tltf, can adapt this layer."""
    if not hasattr(layer, "enable_lora") or not layer.built:
        return False
    constrained = [getattr(layer, f"{name}_constraint", None) for name in _KERNELS]
    return not any(constrained) and getattr(layer, "quantization_mode", None) is None


def has(layer: Any) -> bool:
    """Whether the layer has an adapter now."""
    return bool(getattr(layer, "lora_enabled", False))


def factors(layer: Any) -> list[keras.Variable]:
    """The adapter's own variables."""
    return [v for v in layer.variables if v.name.startswith(FACTOR)]


def waits(variable: keras.Variable) -> bool:
    """Whether it is an A, which has no gradient in the first step: B is zero then."""
    return bool(variable.name.startswith(FACTOR) and variable.name.endswith("_a"))


def add(layers: Iterable[Any], rank: int) -> list[Any]:
    """Puts an adapter on each of the layers that takes one and has none; returns all that have one.

    Compile afterwards. A draws from Python's ``random`` by way of Keras, as every initializer does.

    Raises:
      ArgumentError: a rank below 1, or a layer has an adapter of another rank.
    """
    check_rank(rank)
    found = []
    for layer in layers:
        if has(layer) and layer.lora_rank != rank:
            raise ArgumentError(
                f"rank={rank}, and {layer.name} has an adapter of rank {layer.lora_rank} already",
                where="enable_lora",
                next_action="call tltf.transfer.merge_lora before",
            )
        if takes(layer) and not has(layer):
            layer.enable_lora(rank)
        if has(layer):
            found.append(layer)
    return found


def only_factors(layer: Any) -> None:
    """Of a layer that is set to train, fixes all but the adapter's variables."""
    own = {id(v) for v in factors(layer)}
    for variable in layer.weights:
        variable.trainable = id(variable) in own


def merge(layers: Iterable[Any], *, keep: bool = True) -> int:
    """Takes every adapter off again: ``W = W0 + A B``, and an ordinary layer is left.

    Compile afterwards: what was compiled before still reads the adapters.

    Args:
      layers: those without an adapter stay as they are.
      keep: False forgets what the adapters learned instead.

    Returns:
      How many were taken off.
    """
    count = 0
    for layer in layers:
        if not has(layer):
            continue
        count += 1
        changes = _changes(layer)
        layer.lora_enabled = False
        for name, change in changes.items():
            kernel = getattr(layer, name)
            kernel.trainable = True
            if keep:
                kernel.assign(keras.ops.cast(kernel.value + change, kernel.dtype))
        layer.lora_rank = layer.lora_alpha = None
        for variable in factors(layer):
            # ``del`` would do it too, and collect garbage for each.
            layer._untrack_variable(variable)  # seam: Layer._untrack_variable
    return count


def _changes(layer: Any) -> dict[str, Any]:
    """dW of each kernel, by the attribute that holds it."""
    if hasattr(layer, "lora_changes"):
        return dict(layer.lora_changes())
    scale, (a, b) = layer.lora_alpha / layer.lora_rank, factors(layer)
    name = next(name for name in _KERNELS if hasattr(layer, name))
    return {name: scale * keras.ops.matmul(a.value, b.value)}
