"""A bar with rate and time left on a terminal; one line per epoch where there is none."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import keras

from tltf.terminal import REDRAW_SECONDS, bar_text, clock


class Progress(keras.callbacks.Callback):
    """Shows a phase as it trains, on stderr.

    Args:
      phase: name shown at the start of each line.
      epochs: of the phase.
      steps: batches per epoch.
      batch_size: examples per batch, for the rate.
      stream: where to; a bar is drawn only when it is a terminal.
    """

    def __init__(
        self,
        phase: str,
        *,
        epochs: int,
        steps: int,
        batch_size: int,
        unit: str = "examples",
        stream: TextIO | None = None,
    ) -> None:
        super().__init__()
        self.phase, self.epochs, self.steps, self.batch_size = phase, epochs, steps, batch_size
        self.unit = unit
        self.stream = stream or sys.stderr
        self._terminal = self.stream.isatty()
        self._done = 0
        self._drawn = 0.0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._started, self._done = time.monotonic(), 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._epoch, self._epoch_started = epoch, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._done += 1
        now = time.monotonic()
        # The first batches compile: a rate that counts them would promise hours.
        if self._done == 1:
            self._started = now
        if self._terminal and now - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self._draw(batch, logs or {}, now)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        seconds = time.monotonic() - self._epoch_started
        rate = self.steps * self.batch_size / max(seconds, 1e-9)
        numbers = "  ".join(f"{k} {float(v):.4f}" for k, v in (logs or {}).items())
        width = len(str(self.epochs))
        line = (
            f"{self.phase} {epoch + 1:>{width}}/{self.epochs}  {numbers}"
            f"  {rate:.0f} {self.unit}/s  {seconds:.1f} s"
        )
        self._write(line + "\n")

    def _draw(self, batch: int, logs: Mapping[str, Any], now: float) -> None:
        share = (batch + 1) / self.steps
        done_batches = max(self._done - 1, 1)
        per_batch = (now - self._started) / done_batches
        left = per_batch * ((self.epochs - self._epoch) * self.steps - batch - 1)
        bar = bar_text(share, 20)
        rate = self.batch_size / max(per_batch, 1e-9)
        text = f"{self.phase} {self._epoch + 1}/{self.epochs} {bar}"
        if self._done > 1:
            text += f" {rate:.0f} {self.unit}/s, {clock(left)} left"
        if "loss" in logs:
            text += f"  loss {float(logs['loss']):.4f}"
        self._write(text)

    def _write(self, text: str) -> None:
        if self._terminal:
            columns = shutil.get_terminal_size().columns
            body = text.rstrip("\n")[: columns - 1]
            text = "\r\x1b[K" + body + ("\n" if text.endswith("\n") else "")
        self.stream.write(text)
        self.stream.flush()
