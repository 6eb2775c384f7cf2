"""What the phases of a training minimise, and which epoch's weights they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from tltf.training import objectives, ratesearch


@dataclass(frozen=True)
class Objective:
    """What every phase minimises, and how it is compiled."""

    task: str
    loss: keras.losses.Loss | str | None
    metrics: Callable[[], list[keras.metrics.Metric]] | None
    label_smoothing: float
    jit_compile: bool
    head_solver: str = "gradient"

    def compile_arguments(self) -> dict[str, Any]:
        """Fresh loss and metrics, as :func:`tltf.training.phases.compile_phase` takes them."""
        smoothing = self.label_smoothing
        return {
            "loss": self.loss or objectives.loss_for(self.task, label_smoothing=smoothing),
            "metrics": self.metrics() if self.metrics else objectives.metrics_for(self.task),
            "jit_compile": self.jit_compile,
        }

    @property
    def least_gain(self) -> float:
        """Below this a difference of losses says nothing; of a loss in unknown units nothing is."""
        return ratesearch.NATS if self.loss is None and self.task != "regression" else 0.0


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """When a phase stops early, and which epoch's weights it leaves."""

    patience: int | None
    restore: bool
