"""What the phases of one ``fit_phases`` share: the model, its folder, the history, the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from tltf import storage
from tltf.interval import SaveInterval
from tltf.training import ratesearch, statefiles, states
from tltf.training.guided import Guidance
from tltf.training.interrupts import StopRequest
from tltf.training.states import State
from tltf.training.strategies import Distribution

SAVE_STEPS = 100
"""Between two states of a training in several processes."""


@dataclass
class Session:
    """What the phases share while they run."""

    model: keras.Model
    folder: Path | None
    interval: SaveInterval
    stop: StopRequest
    progress: bool
    history: list[dict[str, Any]] = field(default_factory=list)
    steps_done: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    saved_steps: int = -1
    save_cost: float = 0.0
    distribution: Distribution = field(default_factory=Distribution)
    rates: dict[str, ratesearch.FoundRate] = field(default_factory=dict)
    micro_batch: int | str = 0
    guidance: Guidance | None = None
    seed: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    parts_found: Callable[[str, int], None] = lambda *_: None
    rate_found: Callable[[str, ratesearch.FoundRate], None] = lambda *_: None

    @property
    def save_due(self) -> bool:
        """Whether a state should be committed now."""
        if self.folder is None:
            return False
        if self.distribution.workers > 1:
            # Clocks differ; all processes save after the same steps.
            again = self.saved_steps == self.steps_done
            every = self.interval.steps or SAVE_STEPS
            return self.distribution.stopping() or (self.steps_done % every == 0 and not again)
        due = self.interval.due(
            steps_done=self.steps_done,
            since_seconds=time.monotonic() - self.saved_at,
            cost_seconds=self.save_cost,
        )
        again = self.interval.steps is not None and self.saved_steps == self.steps_done
        return bool(self.stop) or (due and not again)

    @property
    def writes(self) -> bool:
        """Whether there is a folder and this process is the one that writes to it."""
        return self.folder is not None and self.distribution.chief

    def restore(self, state: State) -> None:
        """Model, history and step count of a committed state."""
        states.assign(self.model.variables, state, "model")
        self.history = [dict(row) for row in state.history]
        self.steps_done = state.steps_done
        self.write_history()

    def write_history(self) -> None:
        """history.jsonl, whole, so that a resumed run has no line twice."""
        if self.writes:
            rows = "".join(json.dumps(row) + "\n" for row in self.history)
            storage.write_text(self.folder / "history.jsonl", rows)

    def kept(self) -> str:
        """What is safe on disk, for an error's message."""
        if self.folder is None:
            return "nothing: no folder was given"
        steps = statefiles.peek(self.folder / "state")
        return "nothing yet" if steps is None else f"state of step {steps}"
