"""Stage 2 by effort: the stacked probe, tuning beside it, and what is kept, chosen out of fold."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tltf import recipes, storage
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest
from tltf.data.spreading import spread
from tltf.evaluation import familiarity, rejection
from tltf.evaluation.familiarity import Familiarity
from tltf.interval import SaveInterval
from tltf.models.classifier import backbone_of
from tltf.probes.linear import Targets, losses, mean_loss
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.stages import candidates
from tltf.stages.candidates import Tried, Tuner, try_tuning
from tltf.stages.stacking import (
    Pool,
    Probed,
    TapAnswers,
    pooled,
    probed,
    read_columns,
    top_columns,
)
from tltf.stages.texts import training_batches
from tltf.stages.training import (
    MOST_REFERENCES,
    References,
    TrainingResult,
    cache_of,
)
from tltf.trained import Trained, untrained
from tltf.training.fit import FitResult

Say = Callable[[str], None]
PROBE, TUNED = "stacked probe", "tuned"


def run_choosing(
    plan: recipes.Plan,
    model: keras.Model,
    manifest: Manifest,
    run: RunDir,
    *,
    interval: SaveInterval,
    say: Say,
    progress: bool,
) -> TrainingResult:
    """Fits the stacked probe of a committed plan, and what is shown to be better; commits
    ``weights/``.

    The probe needs no saved state: its rows are in the store as soon as they are computed, and what
    is fitted on them follows from them, to the bit. Each training of a candidate has a folder of
    its own below ``candidates/``.
    """
    started = time.monotonic()
    spec, plain = plan.spec, untrained(model, plan.spec, manifest)
    pool = pooled(spec, manifest, plain.batches)
    probe = probed(
        backbone_of(model), pool, plain.batches, cache=cache_of(spec, say, always=True),
        seed=spec.seed, progress=progress,
    )  # fmt: skip
    for sentence in sentences(probe, pool):
        say(sentence)
    history = [_history_row(probe, pool, seconds=time.monotonic() - started)]
    result = dataclasses.replace(plain, model=probe.model)
    tried, fit = _tuned(result, probe, pool, spec, manifest, run, interval=interval, say=say,
                        progress=progress)  # fmt: skip
    kept = next((one for one in tried if one.mix and fit is not None and one is _best(tried)), None)
    if fit is None:
        fit = FitResult(history=[], movements={}, stored=TapAnswers(probed=probe))
    else:
        history += fit.history
        fit = dataclasses.replace(fit, stored=_OnePass(result))
    fit = dataclasses.replace(fit, history=history)
    logits = probe.found.logits if kept is None else kept.logits
    features = _features(result, probe, pool, fit, kept)
    result = dataclasses.replace(
        result, rule=_rule(logits, pool), familiarity=_familiarity(features, pool)
    )
    result.save(run.weights)
    storage.write_text(run.history, "".join(json.dumps(row) + "\n" for row in history))
    candidates.clear(run)
    return TrainingResult(
        trained=result,
        plan=dataclasses.replace(plan, choices=(*plan.choices, *_choices(probe, pool, tried))),
        fit=fit,
        references=_references(features, manifest),
        selection=selection_block(probe, pool, tried),
    )


def _tuned(
    result: Trained,
    probe: Probed,
    pool: Pool,
    spec: TransferSpec,
    manifest: Manifest,
    run: RunDir,
    *,
    interval: SaveInterval,
    say: Say,
    progress: bool,
) -> tuple[list[Tried], FitResult | None]:
    """What was tried, and the training that is kept: then the model is the tuned one."""
    plan = recipes.tuning(
        spec, labelled=len(pool.records), loss=probe.found.loss,
        texts=result.tokenizer is not None,
    )  # fmt: skip
    if plan is None:
        return [], None
    how = dataclasses.replace(spec, augment=plan.augment, views=plan.views)
    base = training_batches(result, how, manifest, _class_weights(spec, manifest), None)
    tuner = Tuner(
        probe,
        pool,
        phase=plan.phase,
        training=base.with_records,
        plain=lambda records: result.batches(records, batch_size=spec.batch_size or 32),
        cache=cache_of(spec, _silent, always=True),
        run=run,
        settings={
            "task": manifest.task, "seed": spec.seed, "save_every": interval,
            "jit_compile": spec.jit == "on", "progress": progress,
        },
    )  # fmt: skip
    tried = try_tuning(tuner, folds=plan.folds, say=say)
    best = _best(tried)
    if best is None:
        tuner.forget()
        return tried, None
    return tried, tuner.finish(best.mix)


def _best(tried: list[Tried]) -> Tried | None:
    """The candidate that helps most; None where none is shown to help."""
    helping = [one for one in tried if one.helps]
    return max(helping, key=lambda one: one.gain) if helping else None


def _class_weights(spec: TransferSpec, manifest: Manifest) -> dict[str, float] | None:
    from tltf.data.targets import class_weights

    if spec.class_weight == "none":
        return None
    return class_weights(manifest.split("train"), classes=manifest.classes, mode=spec.class_weight)


class _OnePass:
    """Logits and features of a tuned model from one pass over the examples that are asked about."""

    def __init__(self, model: Trained) -> None:
        self._model = model
        self._found: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}

    def logits(self, data: Batches) -> np.ndarray:
        """float32 ``[n, C]``."""
        return self._both(data)[1]

    def pooled(self, data: Batches) -> np.ndarray:
        """float32 ``[n, D]``."""
        return self._both(data)[0]

    def _both(self, data: Batches) -> tuple[np.ndarray, np.ndarray]:
        key = tuple(record.id for record in data.records)
        if key not in self._found:
            self._found = {key: self._model.features_and_logits(data)}
        return self._found[key]


def _features(
    result: Trained, probe: Probed, pool: Pool, fit: FitResult, kept: Tried | None
) -> np.ndarray:
    """Those of the pool ``[n, D]`` in the model that is kept."""
    if kept is None or fit.stored is None:
        return top_columns(probe, probe.matrix)
    return np.asarray(fit.stored.pooled(result.batches(pool.records)))


def _rule(logits: np.ndarray, pool: Pool) -> rejection.DecisionRule:
    """Temperature and threshold from what was predicted out of fold."""
    here = np.flatnonzero(np.isfinite(logits).all(axis=1))
    return rejection.fit_rule(logits[here], _plain(pool.targets[here]), task=pool.targets.task)


def _plain(targets: Targets) -> np.ndarray:
    """Class indices [n], {0, 1} [n, C] or numbers [n], as the evaluation wants them."""
    if targets.task == "single_label":
        return targets.values.argmax(axis=1)
    return targets.values.astype(int) if targets.task == "multi_label" else targets.values[:, 0]


def _references(features: np.ndarray, manifest: Manifest) -> References:
    """Evenly chosen training records and their features."""
    train = manifest.split("train")
    chosen = spread(range(len(train)), most=MOST_REFERENCES)
    return References(records=tuple(train[i] for i in chosen), features=features[chosen])


def _familiarity(features: np.ndarray, pool: Pool) -> Familiarity | None:
    """The distance from what was fitted on, with its limit from distances out of fold."""
    classes = pool.targets.task == "single_label"
    labels = _plain(pool.targets) if classes else np.zeros(len(features), np.int64)

    def fitted(some: np.ndarray, held: np.ndarray) -> Familiarity | None:
        some = np.array(spread(some, most=MOST_REFERENCES))
        return familiarity.fit_familiarity(features[some], labels[some], validation=features[held])

    distances = []
    for fit, held in pool.folds:
        if (one := fitted(fit, held)) is not None:
            distances.append(familiarity.distances(one, features[held]))
    whole = fitted(pool.final, pool.final)
    if whole is None or not distances:
        return None
    return familiarity.with_limit(whole, np.concatenate(distances))


def _history_row(probe: Probed, pool: Pool, *, seconds: float) -> dict[str, Any]:
    """One row of ``history.jsonl``: loss where it was fitted, and out of fold."""
    found, targets = probe.found, pool.targets
    logits = found.head(read_columns(probe, probe.matrix)[pool.final])
    row = {
        "phase": PROBE,
        "epoch": 1,
        "loss": mean_loss(logits, targets[pool.final]),
        "val_loss": found.loss,
    }
    if targets.task == "single_label":
        row["accuracy"] = _accuracy(logits, targets[pool.final])
        row["val_accuracy"] = _accuracy(found.logits[found.scored], targets[found.scored])
    return row | {"epoch_seconds": round(seconds, 3)}


def _accuracy(logits: np.ndarray, targets: Targets) -> float:
    return float((logits.argmax(axis=1) == targets.values.argmax(axis=1)).mean())


def selection_block(probe: Probed, pool: Pool, tried: list[Tried]) -> dict[str, Any]:
    """``selection`` of report.json: what was chosen among what, on which predictions."""
    found, best = probe.found, _best(tried)
    return {
        "validation": pool.validation,
        "n": len(found.scored),
        "chosen": PROBE if best is None else best.name,
        "groups": [
            {
                "name": member.group.name,
                "head": member.group.head,
                "strength": member.found.strength,
                "share": member.share,
                **_scores(member.found.logits, pool.targets, found.scored),
            }
            for member in found.members
        ],
        "stacked_probe": _scores(found.logits, pool.targets, found.scored),
        "taps": [tap.name for tap in probe.read],
        "candidates": [
            {"name": one.name, "gain": one.gain, "standard_error": one.error, "n": one.n,
             "kept": one is best}
            for one in tried
        ],
    }  # fmt: skip


def _scores(logits: np.ndarray, targets: Targets, scored: np.ndarray) -> dict[str, float]:
    found = {"loss": mean_loss(logits[scored], targets[scored])}
    if targets.task == "single_label":
        found["accuracy"] = _accuracy(logits[scored], targets[scored])
    return found


def _choices(probe: Probed, pool: Pool, tried: list[Tried]) -> list[recipes.Choice]:
    kept = [member for member in probe.found.members if member.share > 0]
    shares = ", ".join(f"{member.group.name} {member.share:.2f}" for member in kept)
    why = f"the shares of {len(probe.found.members)} groups with the least loss, {pool.validation}"
    found = [recipes.Choice("stacked_probe", shares, why)]
    best = _best(tried)
    if best is not None:
        why = f"{best.gain:+.3f} nats an example beside the probe, standard error {best.error:.3f}"
        found.append(recipes.Choice("kept", best.name, f"{why}, n={best.n}"))
    elif tried:
        most = max(tried, key=lambda one: one.gain)
        why = f"tuning gave {most.gain:+.3f} nats an example, standard error {most.error:.3f}"
        found.append(recipes.Choice("kept", PROBE, f"{why}, n={most.n}: not shown to help"))
    return found


def sentences(probe: Probed, pool: Pool) -> list[str]:
    """What the probe found, for the person."""
    found = probe.found
    last, whole = (
        _scores(logits, pool.targets, found.scored)
        for logits in (found.members[0].found.logits, found.logits)
    )
    what = "out of fold" if len(pool.folds) > 1 else "on the validation split"
    warning = [] if _learned(probe, pool) else [
        "nothing was learned: the answers are no better than the shares of the classes; are the"
        " labels those of these examples?"
    ]  # fmt: skip
    if "accuracy" in whole:
        return [
            *warning,
            f"stacked probe, {what}: accuracy {whole['accuracy']:.3f}, log-loss"
            f" {whole['loss']:.3f}; of the last block alone {last['accuracy']:.3f},"
            f" {last['loss']:.3f} (n={len(found.scored)})",
        ]
    return [
        *warning,
        f"stacked probe, {what}: loss {whole['loss']:.4g}; of the last block alone"
        f" {last['loss']:.4g} (n={len(found.scored)})",
    ]


def _learned(probe: Probed, pool: Pool) -> bool:
    """Whether the probe is better than knowing how often each answer occurs, beyond noise."""
    targets = pool.targets[probe.found.scored]
    shares = targets.values.mean(axis=0)
    if targets.task == "single_label":
        guess = np.log(np.maximum(shares, 1e-12))
    elif targets.task == "multi_label":
        guess = np.log(np.maximum(shares, 1e-12) / np.maximum(1 - shares, 1e-12))
    else:
        guess = shares
    plain = losses(np.tile(guess, (len(targets), 1)), targets)
    gains = plain - losses(probe.found.logits[probe.found.scored], targets)
    return bool(gains.mean() > 2 * gains.std() / np.sqrt(len(gains)))


def _silent(sentence: str) -> None:
    del sentence
