"""The logs of an epoch as a row of ``history.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tltf.training.callbacks import finite
from tltf.training.optimizers import learning_rates


class Recorder(keras.callbacks.Callback):
    """Hands each finished epoch of a phase to ``end_epoch`` as a row.

    Args:
      phase: its name.
      end_epoch: keeps the row.
    """

    def __init__(self, phase: str, end_epoch: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.phase, self.end_epoch = phase, end_epoch

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        row: dict[str, Any] = {"phase": self.phase, "epoch": epoch + 1}
        row |= {key: finite(value) for key, value in (logs or {}).items()}
        row["learning_rate"] = learning_rates(self.model.optimizer)
        row["epoch_seconds"] = round(time.monotonic() - self._started, 3)
        self.end_epoch(row)
