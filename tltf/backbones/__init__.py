"""Backbones: pretrained networks that carry their preprocessing and their named blocks.

Importing this package imports neither TensorFlow nor Keras; building a backbone does.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tltf.backbones.catalog import TEXT_KINDS, Choice, lookup, names
from tltf.errors import ArgumentError

if TYPE_CHECKING:
    from tltf.backbones.network import Backbone, as_backbone

__all__ = ["Backbone", "as_backbone", "backbone", "lookup", "names"]

_LAZY = {"Backbone": "network", "as_backbone": "network"}


def backbone(
    name: str, weights: str = "imagenet", input_size: int | None = None, *, pooling: str = "mean"
) -> Backbone:
    """A pretrained network from raw images, or from token ids, to features.

    Args:
      name: one of :func:`names`, with options after a colon (``MobileNetV2:alpha=0.35``), or
        ``file:<run folder>`` for a backbone that tltf trained, or ``hub:<folder or URL>`` for a
        SavedModel, which is code and is loaded because it is named here. For texts also
        ``minilm``, ``bert:<folder>``, ``hf:<name>`` or ``vectors:<file>``.
      weights: ``imagenet``, ``none`` for random ones, or the path of a ``.h5``, ``.weights.h5``
        or ``.keras`` file. ``file:`` and texts bring their own, unless this is ``none``.
      input_size: input side in pixels; None for the side that the weights were trained at.
      pooling: of tokens, for texts only: ``mean``, ``max``, ``cls``, or BERT's ``pooled``.

    Returns:
      A functional ``keras.Model`` from ``[B, side, side, 3]`` RGB in [0, 255] to the last
      feature map ``[B, h, w, channels]``, with ``.blocks`` and ``.inference_mode``. For texts
      from int32 token ids ``[B, L]`` to ``[B, D]``, and ``.tokenizer`` gives such ids.

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
    if choice.kind == "hub":
        from tltf.backbones.hub import build as hub

        return hub.build(choice, weights=weights, input_size=input_size, pooling=pooling)
    if choice.kind == "scratch":
        from tltf.backbones import scratch

        return scratch.build(choice, weights=weights, input_size=input_size)
    if choice.kind in TEXT_KINDS:
        return _text(choice, weights, input_size, pooling)
    from tltf.backbones import applications

    return applications.build(choice, weights=weights, input_size=input_size)


def _text(choice: Choice, weights: str, input_size: int | None, pooling: str) -> Backbone:
    """A backbone for texts."""
    from tltf.backbones import huggingface, vectors

    if weights not in ("imagenet", "none") or input_size is not None:
        what = f"input_size={input_size}" if weights in ("imagenet", "none") else f"{weights=}"
        raise ArgumentError(
            f"{what} with the text backbone {choice.text}, which brings its own",
            where="--image_size" if input_size is not None else "--weights",
            next_action="leave it out",
        )
    if choice.kind == "minilm":
        return huggingface.minilm(weights=weights, pooling=pooling)
    if choice.kind == "hf":
        return huggingface.hub(choice.path, weights=weights, pooling=pooling)
    if choice.kind == "vectors":
        return vectors.load(Path(choice.path).expanduser(), weights=weights, pooling=pooling)
    folder = Path(choice.path).expanduser()
    return huggingface.load(folder, weights=weights, pooling=pooling)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
