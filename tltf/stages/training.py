"""Stage 2 by phases: leaves a :class:`~tltf.trained.Trained` in ``weights/``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tltf import recipes, storage
from tltf.data.batches import Batches
from tltf.data.cachefolder import cache_folder
from tltf.data.manifest import Manifest, Record
from tltf.data.remote import RemoteBatches
from tltf.data.spreading import spread
from tltf.data.targets import class_weights
from tltf.errors import OutputError
from tltf.evaluation import rejection
from tltf.evaluation.familiarity import Familiarity, fit_familiarity
from tltf.interval import SaveInterval
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.stages import guiding
from tltf.stages.planning import commit, planned_model
from tltf.stages.texts import (
    say_truncated,
    training_batches,
)
from tltf.trained import Trained, untrained
from tltf.trained import load as load_trained
from tltf.training.caching import Cache
from tltf.training.fit import FitResult, fit_phases
from tltf.training.ratesearch import FoundRate
from tltf.training.statefiles import KEEP
from tltf.training.strategies import Distribution

Say = Callable[[str], None]
MOST_REFERENCES = 500


@dataclass(frozen=True, kw_only=True)
class References:
    """Some of the training records, and their pooled features ``[n, D]`` in the trained model."""

    records: tuple[Record, ...]
    features: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What the stage leaves for the next ones; ``selection`` is a part of report.json."""

    trained: Trained
    plan: recipes.Plan
    fit: FitResult
    references: References
    selection: dict[str, Any] | None = None


def run_phases(
    plan: recipes.Plan,
    model: keras.Model,
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
    """Trains the phases of a committed plan; commits ``weights/``."""
    placed = placed or Distribution()
    result = untrained(model, plan.spec, manifest)
    _check_space(model, run, plan.spec)
    found = _Rates(plan, run, say)
    fit = _fit(result, plan.spec, manifest, run, found, interval=interval, say=say,
               progress=progress, callbacks=callbacks, placed=placed,
               data_service=data_service, micro_batch=micro_batch)  # fmt: skip
    plan = found.plan
    references = _references(result, fit, manifest)
    result = dataclasses.replace(
        result,
        rule=_fitted_rule(result, fit, manifest),
        familiarity=_fitted_familiarity(result, fit, manifest, references),
    )
    result.save(run.weights)
    if placed.strategy is not None:
        # From here on one device is enough, and what is exported is an ordinary model.
        result = load_trained(run.weights)
    return TrainingResult(trained=result, plan=plan, fit=fit, references=references)


def join_training(
    spec: TransferSpec,
    manifest: Manifest,
    run: RunDir,
    placed: Distribution,
    *,
    interval: SaveInterval,
    say: Say,
    micro_batch: int | str = 0,
) -> None:
    """The part of :func:`run_training` that every process has, without a file written.

    Args:
      spec: resolved, as the chief committed it.
      manifest: the chief's.
      run: the chief's folder, which this process only reads.
      placed: of this process, with the strategy of all.
    """
    with placed.scope():
        plan, model = planned_model(spec, manifest)
    result = untrained(model, plan.spec, manifest)
    _fit(result, plan.spec, manifest, run, lambda *_: None, interval=interval, say=say,
         progress=False, callbacks=(), placed=placed, micro_batch=micro_batch)  # fmt: skip


def _fit(
    result: Trained,
    spec: TransferSpec,
    manifest: Manifest,
    run: RunDir,
    found: Callable[[str, FoundRate], None],
    *,
    interval: SaveInterval,
    say: Say,
    progress: bool,
    callbacks: Iterable[keras.callbacks.Callback],
    placed: Distribution,
    data_service: str = "",
    micro_batch: int | str = 0,
) -> FitResult:
    cache = cache_of(spec, say, always=placed.workers > 1) if not data_service else None
    train, size = manifest.split("train"), spec.batch_size or 0
    weights = None
    if spec.class_weight != "none":
        weights = class_weights(train, classes=manifest.classes, mode=spec.class_weight)
    learned = guiding.lesson(spec, result, manifest, say)
    batches = training_batches(result, spec, manifest, weights, learned.targets)
    if data_service:
        say(f"data service: {data_service} decodes every training image in every epoch; no cache")
        batches = RemoteBatches(batches, data_service, say=say)
    validation = result.batches(manifest.split("val"), batch_size=size)
    say_truncated(say, batches, validation, of="training and validation")
    with batches.naming_unreadable(), validation.naming_unreadable(), placed.naming_lost():
        return fit_phases(
            result.model,
            spec.phases,
            batches,
            validation=validation,
            task=manifest.task,
            label_smoothing=spec.label_smoothing,
            early_stop=spec.early_stop or None,
            restore_best=spec.restore == "best",
            jit_compile=spec.jit == "on",
            head_solver=spec.head_solver,
            callbacks=callbacks,
            cache=cache,
            folder=run.path,
            resumed=lambda position: _note_resume(run, position, say) if placed.chief else None,
            rate_found=found,
            save_every=interval,
            progress=progress,
            distribution=placed,
            micro_batch=micro_batch,
            parts_found=lambda phase, n: say(f"{phase}: " + described_parts(n)),
            guidance=guiding.guidance(spec, result.model, learned, say),
            seed=spec.seed,
        )


def described_parts(at_once: int) -> str:
    """What ``--micro_batch=auto`` found."""
    if not at_once:
        return "a whole batch fits into memory"
    return f"micro_batch = {at_once}: more at once ran out of memory; the batch stays as it is"


class _Rates:
    """Takes learning rates that a search found into the plan, and commits it before the phase."""

    def __init__(self, plan: recipes.Plan, run: RunDir, say: Say) -> None:
        self.plan, self.run, self.say = plan, run, say

    def __call__(self, phase: str, found: FoundRate) -> None:
        choice = recipes.Choice(f"{phase}.learning_rate", found.learning_rate, found.reason)
        self.plan = recipes.with_choice(self.plan, choice)
        self.say(str(choice))
        commit(self.plan, self.run)


def _note_resume(run: RunDir, position: dict[str, Any], say: Say) -> None:
    """Said and recorded at once, not at the end: the next kill may come before that."""
    say("resumed_from: {phase}, epoch {epoch}, step {step}".format(**position))
    run.record(resumed_from=position, resumes=[*run.stage()["resumes"], position])


def _check_space(model: Any, run: RunDir, spec: TransferSpec) -> None:
    """Before the first step: room for the states, the weights and the servable.

    A state holds the model, at most two optimizer slots for each weight, its mean if there is an
    average, and the best weights.
    """
    held = 5 if any(phase.average != "none" for phase in spec.phases) else 4
    one = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in model.variables)
    storage.check_space(run.path, held * one * (KEEP + 1) + 2 * one)


def cache_of(spec: TransferSpec, say: Say, *, always: bool) -> Cache | None:
    """Where features are kept: by default in the cache folder, shared by all runs.

    Several processes must decide alike: ``always`` leaves nothing to each one's free disk.
    """
    if spec.cache == "off":
        return None
    if spec.mix != "none":
        say(f"cache: off, since {spec.mix} makes new images of pairs at every step")
        return None
    try:
        folder = Path(spec.cache) if spec.cache != "auto" else cache_folder() / "features"
    except OutputError as error:
        say(f"cache: off: {error}")
        return None
    always = always or spec.cache != "auto"
    return Cache(folder=folder, dtype=spec.cache_dtype, always=always, say=say)


def _fitted_rule(result: Trained, fit: FitResult, manifest: Manifest) -> rejection.DecisionRule:
    """Temperature and threshold from the validation split."""
    data = result.batches(manifest.split("val"))
    logits = answers(result, fit, data)
    return rejection.fit_rule(logits, targets_of(data), task=result.task)


def answers(result: Trained, fit: FitResult, data: Batches) -> np.ndarray:
    """Logits ``[n, C]``, from stored features where there are any."""
    found = fit.stored.logits(data) if fit.stored else None
    return result.logits(data) if found is None else found


def _references(result: Trained, fit: FitResult, manifest: Manifest) -> References:
    """Evenly chosen training records, enough for a covariance and to look for neighbours."""
    train = manifest.split("train")
    records = tuple(spread(train, most=MOST_REFERENCES))
    found = fit.stored.pooled_as_trained(records) if fit.stored else None
    if found is None:
        found = result.features(result.batches(records))
    return References(records=records, features=found)


def _fitted_familiarity(
    result: Trained, fit: FitResult, manifest: Manifest, references: References
) -> Familiarity | None:
    """The distance from training data, with its limit from the validation split."""
    validation = manifest.split("val")
    if not validation:
        return None
    targets = np.zeros(len(references.records), np.int64)
    if result.task == "single_label":
        targets = targets_of(result.batches(references.records))
    held = pooled_features(result, fit, result.batches(spread(validation, most=MOST_REFERENCES)))
    return fit_familiarity(references.features, targets, validation=held)


def pooled_features(result: Trained, fit: FitResult, data: Batches) -> np.ndarray:
    """Pooled features ``[n, D]``, from stored ones where there are any."""
    found = fit.stored.pooled(data) if fit.stored else None
    return result.features(data) if found is None else found


def targets_of(data: Batches) -> np.ndarray:
    """Class indices [n], {0, 1} [n, C] or numbers [n], as the evaluation wants them."""
    targets = data.targets()
    if data.task == "single_label":
        return targets.argmax(axis=1)
    return targets.astype(int) if data.task == "multi_label" else targets[:, 0]
