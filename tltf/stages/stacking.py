"""Stage 2 without phases: the stacked probe on frozen taps, chosen and calibrated out of fold."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tltf import checks, effort, recipes, storage
from tltf.backbones.network import Backbone
from tltf.data import splits
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest, Record
from tltf.data.targets import class_weights, factor_array
from tltf.evaluation import familiarity, rejection
from tltf.evaluation.familiarity import Familiarity
from tltf.models import depths, heads, taps
from tltf.models.classifier import backbone_of, classifier
from tltf.models.taps import Tap
from tltf.probes import folds, stack
from tltf.probes.linear import Fold, Targets, mean_loss
from tltf.probes.stack import Stack
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.stages.training import (
    MOST_REFERENCES,
    References,
    TrainingResult,
    cache_of,
    evenly,
    untrained,
)
from tltf.training.caching import Cache
from tltf.training.fit import FitResult
from tltf.training.taprows import TapRows

Say = Callable[[str], None]
PHASE = "stacked probe"


def run_stacking(
    plan: recipes.Plan,
    model: keras.Model,
    manifest: Manifest,
    run: RunDir,
    *,
    say: Say,
    progress: bool,
) -> TrainingResult:
    """Fits the stacked probe of a committed plan; commits ``weights/``.

    Nothing of it needs a saved state: rows are in the store as soon as they are computed, and what
    is fitted on them follows from them, to the bit.
    """
    started = time.monotonic()
    plain = untrained(model, plan, manifest)
    pool = pooled(plan.spec, manifest, plain.batches)
    done = probed(
        backbone_of(model), pool, plain.batches, cache=cache_of(plan.spec, say, always=True),
        seed=plan.spec.seed, progress=progress,
    )  # fmt: skip
    for sentence in sentences(done, pool):
        say(sentence)
    answers = TapAnswers(probed=done)
    rows = _read(done, done.matrix)
    result = dataclasses.replace(
        plain,
        model=done.model,
        rule=_rule(done.found, pool),
        familiarity=_familiarity(_top(done, done.matrix), pool),
    )
    result.save(run.weights)
    history = [_history_row(done, pool, rows, seconds=time.monotonic() - started)]
    storage.write_text(run.history, "".join(json.dumps(row) + "\n" for row in history))
    return TrainingResult(
        trained=result,
        plan=dataclasses.replace(plan, choices=(*plan.choices, *_choices(done, pool))),
        fit=FitResult(history=history, movements={}, stored=answers),
        references=_references(_top(done, done.matrix), manifest),
        selection=selection_block(done, pool),
    )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The labelled examples that everything is fitted and chosen on.

    Args:
      records: of the training split, and behind them of a validation split if there is one.
      targets: of the records; a record's weight times that of its class.
      folds: which to fit on and which to predict.
      final: which the model is fitted on in the end.
      validation: what the folds are, for the plan: ``folds:5`` or ``split``.
    """

    records: tuple[Record, ...]
    targets: Targets
    folds: tuple[Fold, ...]
    final: np.ndarray
    validation: str


def pooled(spec: TransferSpec, manifest: Manifest, batches: Callable[..., Batches]) -> Pool:
    """The labelled examples of a run, with folds that respect groups, copies and look-alikes.

    Args:
      spec: of the run.
      manifest: with a validation split, which is then the one fold, or without.
      batches: from records to batches, for their targets.
    """
    train, held = tuple(manifest.split("train")), tuple(manifest.split("val"))
    records = (*train, *held)
    weights = np.array([record.weight for record in records])
    if spec.class_weight != "none":
        factors = class_weights(train, classes=manifest.classes, mode=spec.class_weight)
        weights = weights * factor_array(records, factors)
    targets = Targets(
        values=batches(records).targets().astype(np.float64), weights=weights, task=manifest.task
    )
    fitted = np.arange(len(train))
    if held:
        found = [(fitted, np.arange(len(train), len(records)))]
        return Pool(records=records, targets=targets, folds=tuple(found), final=fitted,
                    validation="split")  # fmt: skip
    count = checks.fold_count(spec.validation) or effort.FOLDS
    found = folds.stratified(
        splits.fold_strata(records, manifest.task),
        splits.components(records),
        count=count,
        seed=spec.seed,
    )
    return Pool(records=records, targets=targets, folds=tuple(found), final=fitted,
                validation=f"folds:{len(found)}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Probed:
    """The stacked probe of a run.

    Args:
      rows: of every tap, for further examples too.
      matrix: those of the pool, ``[n, D]``.
      found: the stack.
      read: the taps that its head reads, in its order.
      model: the network with these taps and the head, an ordinary classifier.
    """

    rows: TapRows
    matrix: np.ndarray
    found: Stack
    read: tuple[Tap, ...]
    model: keras.Model


def probed(
    network: Backbone,
    pool: Pool,
    batches: Callable[..., Batches],
    *,
    cache: Cache | None,
    seed: int,
    progress: bool,
) -> Probed:
    """Every depth of a frozen network, stacked.

    Args:
      network: pretrained.
      pool: the labelled examples.
      batches: from records to batches as the network wants them.
      cache: for the rows.
      seed: of the head's layers, which draw nothing from it but must be the same in every run.
      progress: draw bars.
    """
    wanted = depths.within_budget(taps.candidates(network), examples=len(pool.records))
    rows = TapRows(network, wanted, cache=cache, progress=progress)
    matrix = rows(batches(pool.records))
    found = stack.stacked(
        rows.columns(matrix), pool.targets, pool.folds, depths.groups(wanted), final=pool.final,
        always=wanted[-1].name,
    )  # fmt: skip
    names = {tap.name: tap for tap in wanted}
    read = tuple(names[name] for name in found.taps)
    model = classifier(
        taps.tapped(network, read), heads.head(pool.targets.values.shape[1], seed=seed)
    )
    logits = model.get_layer(heads.HEAD).get_layer(heads.LOGITS)
    logits.kernel.assign(found.head.kernel)
    logits.bias.assign(found.head.bias)
    return Probed(rows=rows, matrix=matrix, found=found, read=read, model=model)


@dataclass(frozen=True, kw_only=True)
class TapAnswers:
    """Answers for further examples by way of their rows: each crosses the network once."""

    probed: Probed

    def logits(self, data: Batches) -> np.ndarray:
        """float32 ``[n, C]`` in the order of the records."""
        rows = _read(self.probed, self.probed.rows(data))
        return self.probed.found.head(rows).astype(np.float32)

    def pooled(self, data: Batches) -> np.ndarray:
        """Those of the last tap, float32 ``[n, D]``, which are the features of the model."""
        return _top(self.probed, self.probed.rows(data))


def _top(probed: Probed, matrix: np.ndarray) -> np.ndarray:
    return matrix[:, -probed.read[-1].width :]


def _read(probed: Probed, matrix: np.ndarray) -> np.ndarray:
    columns = probed.rows.columns(matrix)
    return np.concatenate([columns[tap.name] for tap in probed.read], axis=1)


def _rule(found: Stack, pool: Pool) -> rejection.DecisionRule:
    """Temperature and threshold from what was predicted out of fold."""
    return rejection.fit_rule(
        found.logits[found.scored], _plain(pool.targets[found.scored]), task=pool.targets.task
    )


def _plain(targets: Targets) -> np.ndarray:
    """Class indices [n], {0, 1} [n, C] or numbers [n], as the evaluation wants them."""
    if targets.task == "single_label":
        return targets.values.argmax(axis=1)
    return targets.values.astype(int) if targets.task == "multi_label" else targets.values[:, 0]


def _references(rows: np.ndarray, manifest: Manifest) -> References:
    """Evenly chosen training records and their features."""
    train = manifest.split("train")
    chosen = evenly(len(train), MOST_REFERENCES)
    return References(records=tuple(train[i] for i in chosen), features=rows[chosen])


def _familiarity(rows: np.ndarray, pool: Pool) -> Familiarity | None:
    """The distance from what was fitted on, with its limit from distances out of fold."""
    classes = pool.targets.task == "single_label"
    labels = _plain(pool.targets) if classes else np.zeros(len(rows), np.int64)

    def fitted(some: np.ndarray, held: np.ndarray) -> Familiarity | None:
        some = some[evenly(len(some), MOST_REFERENCES)]
        return familiarity.fit_familiarity(rows[some], labels[some], validation=rows[held])

    distances = []
    for fit, held in pool.folds:
        if (one := fitted(fit, held)) is not None:
            distances.append(familiarity.distances(one, rows[held]))
    whole = fitted(pool.final, pool.final)
    if whole is None or not distances:
        return None
    return familiarity.with_limit(whole, np.concatenate(distances))


def _history_row(done: Probed, pool: Pool, rows: np.ndarray, *, seconds: float) -> dict[str, Any]:
    """One row of ``history.jsonl``: loss where it was fitted, and out of fold."""
    scored = done.found.scored
    row = {
        "phase": PHASE,
        "epoch": 1,
        "loss": mean_loss(done.found.head(rows[pool.final]), pool.targets[pool.final]),
        "val_loss": done.found.loss,
    }
    if pool.targets.task == "single_label":
        truth = pool.targets.values.argmax(axis=1)
        fitted = done.found.head(rows[pool.final]).argmax(axis=1)
        row["accuracy"] = float((fitted == truth[pool.final]).mean())
        row["val_accuracy"] = float((done.found.logits[scored].argmax(1) == truth[scored]).mean())
    return row | {"epoch_seconds": round(seconds, 3)}


def selection_block(done: Probed, pool: Pool) -> dict[str, Any]:
    """``selection`` of report.json: what was chosen among what, on which predictions."""
    scored = done.found.scored
    return {
        "validation": pool.validation,
        "n": len(scored),
        "chosen": PHASE,
        "candidates": [
            {
                "name": member.group.name,
                "head": member.group.head,
                "numbers": sum(t.width for t in done.rows.taps if t.name in member.group.taps),
                "strength": member.found.strength,
                "share": member.share,
                **_scores(member.found.logits, pool.targets, scored),
            }
            for member in done.found.members
        ],
        "stack": _scores(done.found.logits, pool.targets, scored),
        "taps": [tap.name for tap in done.read],
    }


def _scores(logits: np.ndarray, targets: Targets, scored: np.ndarray) -> dict[str, float]:
    found = {"loss": mean_loss(logits[scored], targets[scored])}
    if targets.task == "single_label":
        truth = targets.values[scored].argmax(axis=1)
        found["accuracy"] = float((logits[scored].argmax(axis=1) == truth).mean())
    return found


def _choices(done: Probed, pool: Pool) -> list[recipes.Choice]:
    kept = [member for member in done.found.members if member.share > 0]
    shares = ", ".join(f"{member.group.name} {member.share:.2f}" for member in kept)
    why = f"the shares of {len(done.found.members)} groups with the least loss, {pool.validation}"
    return [recipes.Choice("stacked_probe", shares, why)]


def sentences(done: Probed, pool: Pool) -> list[str]:
    """What the probe found, for the person."""
    scored = done.found.scored
    first = done.found.members[0]
    last, whole = (
        _scores(logits, pool.targets, scored) for logits in (first.found.logits, done.found.logits)
    )
    what = "out of fold" if len(pool.folds) > 1 else "on the validation split"
    if "accuracy" in whole:
        return [
            f"stacked probe, {what}: accuracy {whole['accuracy']:.3f}, log-loss"
            f" {whole['loss']:.3f}; of the last block alone {last['accuracy']:.3f},"
            f" {last['loss']:.3f} (n={len(scored)})"
        ]
    return [
        f"stacked probe, {what}: loss {whole['loss']:.4g}; of the last block alone"
        f" {last['loss']:.4g} (n={len(scored)})"
    ]
