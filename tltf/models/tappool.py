"""The layer that pools what several blocks say to one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tltf.backbones.network import Backbone
from tltf.errors import ArgumentError

MEAN, DEVIATION, QUADRANTS = "mean", "deviation", "quadrants"
STATISTICS = (MEAN, DEVIATION, QUADRANTS)
TAPS = "taps"
_LEAST_VARIANCE = 1e-12


@keras.saving.register_keras_serializable(package="tltf")
class TapPool(keras.layers.Layer):
    """Maps ``[B, h, w, c]``, tokens ``[B, L, c]`` or vectors ``[B, c]`` to one vector each, side
    by side.

    With x a channel's values at the positions of an example (of a text those that are no padding):
    ``mean`` is their mean, ``deviation`` ``sqrt(mean(x^2) - mean(x)^2)``, ``quadrants`` the means
    over the upper left, upper right, lower left and lower right part of a map, cut in the middle.
    A vector passes unchanged.

    Args:
      statistics: one for each input.
      masked: whether the first input is a mask of tokens, float ``[B, L]``.

    Call args:
      tensors: as many as there are statistics, the mask before them.

    Returns:
      float32 ``[B, D]``.

    Raises:
      ArgumentError: an unknown statistic.
    """

    def __init__(self, statistics: Sequence[str], masked: bool = False, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        unknown = [name for name in statistics if name not in STATISTICS]
        if unknown:
            raise ArgumentError(
                f"statistic {unknown[0]!r}, expected one of {', '.join(STATISTICS)}", where=TAPS
            )
        self.statistics, self.masked = list(statistics), masked

    def call(self, tensors: Any) -> Any:
        """See the class."""
        present = tensors[0] if self.masked else None
        maps = tensors[1:] if self.masked else tensors
        pooled = [
            _pooled(ops.cast(x, "float32"), statistic, present)
            for x, statistic in zip(maps, self.statistics, strict=True)
        ]
        return pooled[0] if len(pooled) == 1 else ops.concatenate(pooled, axis=-1)

    @property
    def last_width(self) -> int:
        """Numbers of the last tap."""
        last = self.input[-1] if isinstance(self.input, list | tuple) else self.input
        many = 4 if self.statistics[-1] == QUADRANTS else 1
        return many * int(last.shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "statistics": self.statistics, "masked": self.masked}


def _pooled(x: Any, statistic: str, present: Any) -> Any:
    if len(x.shape) == 2:
        return x
    if statistic == QUADRANTS:
        top, left = x.shape[1] // 2, x.shape[2] // 2
        parts = (x[:, :top, :left], x[:, :top, left:], x[:, top:, :left], x[:, top:, left:])
        return ops.concatenate([ops.mean(part, axis=(1, 2)) for part in parts], axis=-1)
    average = _mean_over_positions(present, len(x.shape))
    if statistic == MEAN:
        return average(x)
    centred = x - ops.expand_dims(average(x), list(range(1, len(x.shape) - 1)))
    return ops.sqrt(average(ops.square(centred)) + _LEAST_VARIANCE)


def _mean_over_positions(present: Any, rank: int) -> Any:
    if rank == 4:
        return lambda x: ops.mean(x, axis=(1, 2))
    if present is None:
        return lambda x: ops.mean(x, axis=1)
    mask = ops.cast(present, "float32")[..., None]
    count = ops.maximum(ops.sum(mask, axis=1), 1.0)
    return lambda x: ops.sum(x * mask, axis=1) / count


def tap_layer(backbone: Backbone) -> TapPool | None:
    """The layer that pools the taps of a network; None for one with a single output."""
    return next((layer for layer in backbone.layers if isinstance(layer, TapPool)), None)
