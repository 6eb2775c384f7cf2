"""Checkpoints: the share of a training run's time that goes into committing its state.

The dearest case: everything trainable, Adam (two slots for each weight), the best weights kept
too, nothing cached. Saving is timed where the run calls it, at the default interval.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import keras

from experiments.benchmarks.phases import RATES, model_of
from experiments.benchmarks.photos import Photos
from experiments.benchmarks.protocol import Row
from tltf.spec import Phase
from tltf.training import phaserun
from tltf.training.fit import fit_phases

SECONDS_AT_LEAST = 150.0
"""So that several saves at the default interval of 30 s fall into the run."""


def share(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """Seconds inside commits over seconds of the whole training."""
    del pairs
    train = photos.batches("train", batch_size=16)
    model = model_of(name, weights, photos)
    folder = work / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    stop = StopAfter(started + SECONDS_AT_LEAST)
    with _timed_commits() as commits:
        fit_phases(
            model,
            [Phase("tune", 1000, RATES[1], unfreeze="all")],
            train,
            folder=folder,
            callbacks=[stop],
            progress=False,
        )
    wall = time.perf_counter() - started
    size = max((f.stat().st_size for f in folder.rglob("*.safetensors")), default=0)
    note = (
        f"{len(commits)} commits of {size / 1e6:.0f} MB, {min(commits):.2f} to {max(commits):.2f} s"
        f" each, in {wall:.0f} s"
    )
    what = f"{name} all trainable, seconds of saving / seconds of training"
    return [Row(goal="save", what=what, values=(sum(commits) / wall,), target="<= 0.05",
                note=note)]  # fmt: skip


class StopAfter(keras.callbacks.Callback):
    """Ends training with the first epoch that ends after a point in time."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self.deadline = deadline

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if time.perf_counter() > self.deadline:
            self.model.stop_training = True


@contextmanager
def _timed_commits() -> Iterator[list[float]]:
    """Seconds of every commit of a state while inside."""
    commits: list[float] = []
    save = phaserun.states.save

    def timed(*positional: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return save(*positional, **named)
        finally:
            commits.append(time.perf_counter() - began)

    with mock.patch.object(phaserun.states, "save", timed):
        yield commits
