"""Backbones: pretrained networks that carry their preprocessing and their named blocks.

Importing this package imports neither TensorFlow nor Keras; building a backbone does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tltf.backbones.catalog import lookup, names

if TYPE_CHECKING:
    from tltf.backbones.network import Backbone, as_backbone

__all__ = ["Backbone", "as_backbone", "backbone", "lookup", "names"]

_LAZY = {"Backbone": "network", "as_backbone": "network"}


def backbone(name: str, weights: str = "imagenet", input_size: int | None = None) -> Backbone:
    """A pretrained network from raw images to features.

    Args:
      name: one of :func:`names`, with options after a colon (``MobileNetV2:alpha=0.35``), or
        ``file:<run folder>`` for a backbone that tltf trained.
      weights: ``imagenet``, ``none`` for random ones, or the path of a ``.h5``, ``.weights.h5``
        or ``.keras`` file. ``file:`` brings its own, unless this is ``none``.
      input_size: input side in pixels; None for the side that the weights were trained at.

    Returns:
      A functional ``keras.Model`` from ``[B, side, side, 3]`` RGB in [0, 255] to the last
      feature map ``[B, h, w, channels]``, with ``.blocks`` and ``.inference_mode``.

    Raises:
      ArgumentError: unknown name, option or size; weights that do not exist for it.
      DownloadError: official weights neither in the Keras cache nor to be had.
      InputMissingError: no file or run folder at the path.
      DataError: weights that are damaged, not finite, or of another architecture.

    Example::

      base = tltf.backbone("MobileNetV2", input_size=160)
      base.trainable = False
      list(base.blocks)  # ["Conv1", "block_1", ..., "Conv_1"]
    """
    choice = lookup(name)
    if choice.kind == "file":
        from tltf.backbones import runfile

        return runfile.load(choice.path, weights=weights, input_size=input_size)
    if choice.kind == "scratch":
        from tltf.backbones import scratch

        return scratch.build(choice, weights=weights, input_size=input_size)
    from tltf.backbones import applications

    return applications.build(choice, weights=weights, input_size=input_size)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
