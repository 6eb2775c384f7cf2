"""Taps: what the named blocks of a network say, pooled to one vector each, from one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tltf.backbones.network import Backbone, mark
from tltf.backbones.tokens import tokens_layer
from tltf.models.tappool import DEVIATION, MEAN, QUADRANTS, TAPS, TapPool

INNER = "inner"


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A statistic of what a block gives.

    Args:
      block: name of the block.
      layer: name of the layer whose output is pooled.
      inner: whether that is the block's widest inner layer, and not its output.
      statistic: ``mean`` or standard ``deviation`` over positions, or the means of the four
        ``quadrants`` of a map.
      width: how many numbers it has.
    """

    block: str
    layer: str
    inner: bool
    statistic: str
    width: int

    @property
    def name(self) -> str:
        """For groups and reports: ``block_6``, ``block_6/inner deviation``."""
        where = f"{self.block}/{INNER}" if self.inner else self.block
        return where if self.statistic == MEAN else f"{where} {self.statistic}"


def candidates(backbone: Backbone) -> tuple[Tap, ...]:
    """Every tap of a network, bottom to top; the last block's output comes last.

    Of each block with weights: its output, and, where an inner layer is wider than that (the
    expanded layer of an inverted bottleneck, the feed-forward layer of a transformer), the last one
    of the greatest width. Each gives mean and deviation, maps also quadrants. Of a network without
    visible layers, or one whose output is a vector that is no pooled block, only the output.
    """
    found = [tap for block in _blocks(backbone) for tap in _of_block(backbone, *block)]
    return tuple(found) or (_output_tap(backbone),)


def tapped(backbone: Backbone, taps: Sequence[Tap]) -> Backbone:
    """The network with the taps side by side as its output, float32 ``[B, D]``.

    Layers and variables are shared with ``backbone``; the blocks, the tokenizer and what is frozen
    stay what they were. What no tap reads is not in it.

    Example::

      network = tltf.backbone("MobileNetV2")
      model = tltf.classifier(tapped(network, candidates(network)), tltf.head(3))
    """
    tensors = [_tensor(backbone, tap) for tap in taps]
    tokens = tokens_layer(backbone)
    masks = [tokens.output] if tokens is not None else []
    pooled = TapPool([tap.statistic for tap in taps], masked=bool(masks), name=TAPS)(
        [*masks, *tensors]
    )
    return Backbone(backbone.inputs[0], mark(pooled, family=backbone.family), name=backbone.name)


def _blocks(backbone: Backbone) -> Iterator[tuple[str, list[Any]]]:
    """Blocks of visible layers with weights; the last one ends in the network's output."""
    own = {id(layer) for layer in backbone.layers}
    for name, layers in backbone.blocks.items():
        seen = [layer for layer in layers if id(layer) in own]
        if len(seen) == len(layers) and any(layer.weights for layer in layers):
            yield name, layers


def _of_block(backbone: Backbone, name: str, layers: list[Any]) -> Iterator[Tap]:
    readable = [layer for layer in layers if _is_map(layer)]
    if not readable:
        return
    last = readable[-1]
    widest = max(readable, key=lambda layer: (_width(layer), layers.index(layer)))
    if _width(widest) > _width(last):
        yield from _statistics(name, widest, inner=True)
    yield from _statistics(name, last, inner=False)


def _statistics(block: str, layer: Any, *, inner: bool) -> Iterator[Tap]:
    shape = layer.output.shape
    kinds = [QUADRANTS] if len(shape) == 4 and min(shape[1] or 0, shape[2] or 0) >= 2 else []
    for statistic in (*kinds, DEVIATION, MEAN):
        width = 4 * shape[-1] if statistic == QUADRANTS else shape[-1]
        yield Tap(block=block, layer=layer.name, inner=inner, statistic=statistic, width=width)


def _output_tap(backbone: Backbone) -> Tap:
    layer = _last_layer(backbone)
    return Tap(
        block=layer.name, layer=layer.name, inner=False, statistic=MEAN,
        width=backbone.output_shape[-1],
    )  # fmt: skip


def _tensor(backbone: Backbone, tap: Tap) -> Any:
    return backbone.get_layer(tap.layer).output


def _last_layer(backbone: Backbone) -> Any:
    """The one below :class:`tltf.backbones.layers.Features`, which ends every Backbone."""
    # seam: KerasTensor._keras_history
    return backbone.layers[-1].input._keras_history.operation


def _is_map(layer: Any) -> bool:
    """Whether a layer gives one float map, or a sequence of tokens, with known channels."""
    if layer.__class__.__name__ in ("InputLayer", "Features"):
        return False
    tensor = layer.output
    if isinstance(tensor, list | tuple | dict):
        return False
    return len(tensor.shape) in (3, 4) and tensor.shape[-1] is not None


def _width(layer: Any) -> int:
    return int(layer.output.shape[-1])
