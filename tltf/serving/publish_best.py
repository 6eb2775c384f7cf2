"""A callback for anyone's own ``fit``: the best epoch so far is what is served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tltf.errors import ArgumentError
from tltf.serving import publish
from tltf.serving.export import export


class PublishBest(keras.callbacks.Callback):
    """Publishes a version after every epoch that is better than all before.

    Each version is tried in fresh processes first, see :func:`tltf.export`; a value that is not
    finite is never the best. A version that answers differently raises and ends the training.

    Args:
      to: the folder of versions.
      labels: class names in the order of the logits.
      monitor: the metric; larger is better unless ``mode="min"``.
      keep: how many versions stay.
      examples: image files, or texts, for the comparison.
      options: further arguments of :func:`tltf.export`, such as ``task`` or ``temperature``.

    Example::

      best = tltf.PublishBest("servable", labels=["ant", "bee"], keep=2)
      model.fit(train, validation_data=val, epochs=10, callbacks=[best])
      print(best.published)
    """

    def __init__(
        self,
        to: str | Path,
        *,
        labels: Sequence[str] = (),
        monitor: str = "val_accuracy",
        mode: str = "max",
        keep: int | None = 2,
        examples: Sequence[str | Path] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ArgumentError(f"mode={mode!r}, expected min or max", where="PublishBest")
        publish.check_keep(keep)
        self.to, self.labels, self.monitor, self.mode = Path(to), tuple(labels), monitor, mode
        self.keep, self.examples, self.options = keep, tuple(examples), dict(options or {})
        self.best = -math.inf if mode == "max" else math.inf
        self.published: Path | None = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.monitor not in (logs or {}):
            raise ArgumentError(
                f"monitor={self.monitor!r} is not among {sorted(logs or {})}", where="PublishBest"
            )
        value = float(logs[self.monitor])  # type: ignore[index]
        better = value > self.best if self.mode == "max" else value < self.best
        if math.isfinite(value) and better:
            self.best = value
            self.published = export(
                self.model,
                to=self.to,
                labels=self.labels,
                examples=self.examples,
                keep=self.keep,
                **self.options,
            )
