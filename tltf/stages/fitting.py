"""Stage 2: plan and model, then the stacked probe or the phases; leaves ``weights/``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras

from tltf import effort
from tltf.data.manifest import Manifest
from tltf.interval import SaveInterval
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.stages.choosing import run_choosing
from tltf.stages.planning import committed, planned_model
from tltf.stages.training import TrainingResult, run_phases
from tltf.training.strategies import Distribution

Say = Callable[[str], None]


def run_training(
    spec: TransferSpec,
    manifest: Manifest,
    run: RunDir,
    *,
    interval: SaveInterval,
    say: Say,
    progress: bool,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    placed: Distribution | None = None,
    data_service: str = "",
    micro_batch: int | str = 0,
) -> TrainingResult:
    """Builds the model, commits the resolved ``spec.json``, and trains by the run's effort."""
    placed = placed or Distribution()
    plan, model = planned_model(spec, manifest)
    plan = committed(plan, run)
    if placed.strategy is not None:
        placed.barrier()  # the others read what is committed now
        with placed.scope():
            _, model = planned_model(plan.spec, manifest)
    for choice in plan.choices:
        say(str(choice))
    if plan.spec.effort in (None, effort.PLAN):
        return run_phases(plan, model, manifest, run, interval=interval, say=say,
                          progress=progress, callbacks=callbacks, placed=placed,
                          data_service=data_service, micro_batch=micro_batch)  # fmt: skip
    return run_choosing(plan, model, manifest, run, interval=interval, say=say,
                        progress=progress)  # fmt: skip
