"""Stages 2 and 3 of an adaptation: both domains' features, the methods, the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tltf import recipes, sealed, storage
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest, groups_of
from tltf.data.shots import SHOTS
from tltf.errors import ArgumentError, printable
from tltf.evaluation import calibration, evaluate, rejection, verdict
from tltf.evaluation.summary import summary
from tltf.models import heads
from tltf.models.classifier import backbone_of, classifier
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.stages import domainfit, frozen, sourcemix
from tltf.stages.domainfit import Features, Fitted
from tltf.stages.planning import committed, planned_model
from tltf.stages.reporting import write_report
from tltf.stages.training import targets_of
from tltf.trained import Trained, untrained
from tltf.training import boundary as boundaries
from tltf.training import freezing
from tltf.training.boundary import Boundary
from tltf.training.interrupts import StopRequest, stop_requests
from tltf.transfer.distances import distance_report
from tltf.transfer.domain_norm import DomainBatchNormalization, adapt_batch_norm, batch_norms

Say = Callable[[str], None]

SOURCE_ONLY = "source_only"
CANDIDATES = ("mmd", "mcc", "meda")
"""What ``--method=auto`` tries beside the source alone; docs/transfer.md has the measurements."""

JUDGED = "chosen without target labels, by the reverse accuracy of its answers"


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What the stage leaves: the adapted model, the source-only answers, and how it came."""

    trained: Trained
    plan: recipes.Plan
    chosen: Fitted
    baseline: Fitted
    distance: dict[str, Any]
    selection: dict[str, Any]
    shares: dict[str, float]


def run_adapting(
    spec: TransferSpec, manifest: Manifest, run: RunDir, *, say: Say, progress: bool
) -> Adapted:
    """Trains the source-only head and the method's on stored features, commits ``weights/``.

    Everything follows from the seed, and the features are kept in the store: the same command
    after a kill gives the same run.
    """
    plan, model = planned_model(spec, manifest)
    plan = committed(plan, run)
    spec, phase = plan.spec, plan.spec.phases[-1]
    for choice in plan.choices:
        say(str(choice))
    if spec.adapt.method == "dsbn":
        model = _with_domain_norm(model)
    if spec.adapt.method == "adabn":
        batch_norms(model)
    result = untrained(model, spec, manifest)
    freezing.set_trainable(model, phase.unfreeze or "none", batch_norm=phase.batch_norm)
    cut = boundaries.split(model)
    if cut is None:
        raise ArgumentError(
            f"unfreeze={phase.unfreeze!r} leaves nothing frozen whose features could be kept",
            where="--unfreeze",
            next_action="use --unfreeze=none or last:N",
        )
    _check_mix(spec, cut)
    found = _features(result, cut, spec, manifest, say=say, progress=progress)
    found, shares = sourcemix.mixed(found, manifest.split("train"), spec, say=say)
    distance = distance_report(
        found.pooled(found.train), found.pooled(found.target), seed=spec.seed
    )
    say(distance["sentence"])
    with stop_requests() as stop:
        fitted = _candidates(cut.tail, found, spec, n_classes=len(manifest.classes), stop=stop,
                             say=say)  # fmt: skip
    if spec.adapt.method == "adabn":
        domainfit.restored(cut.tail, fitted["adabn"].weights)
        fitted["adabn"] = _with_target_statistics(result, cut, manifest, fitted["adabn"])
    selection, chosen = _selected(fitted, found, spec)
    say(selection["sentence"])
    domainfit.restored(cut.tail, chosen.weights)
    rule = rejection.fit_rule(chosen.val_logits, found.val_labels, task=result.task)
    result = dataclasses.replace(result, rule=rule)
    result.save(run.weights)
    return Adapted(
        trained=result,
        plan=plan,
        chosen=chosen,
        baseline=fitted[SOURCE_ONLY],
        distance=distance,
        selection=selection,
        shares=shares,
    )


def _candidates(
    tail: keras.Model,
    found: Features,
    spec: TransferSpec,
    *,
    n_classes: int,
    stop: StopRequest,
    say: Say,
) -> dict[str, Fitted]:
    """The source alone and the method, or every candidate of ``auto``, each from one start."""
    start = [np.array(v.numpy()) for v in tail.variables]
    method = spec.adapt.method
    methods = CANDIDATES if method == "auto" else (method,)
    fitted = {}
    for name in dict.fromkeys((SOURCE_ONLY, *methods)):
        domainfit.restored(tail, start)
        fitted[name] = domainfit.fit_method(
            SOURCE_ONLY if name == "adabn" else name,
            tail,
            found,
            phase=spec.phases[-1],
            n_classes=n_classes,
            batch_size=max(2, spec.batch_size or 64),
            seed=spec.seed,
            weight=spec.adapt.weight,
            stop=stop,
            mix=spec.mix,
            answers=None if name == SOURCE_ONLY else _probabilities(fitted[SOURCE_ONLY]),
        )
        for note in fitted[name].notes:
            say(f"{name}: {note}")
    return fitted


def _probabilities(fitted: Fitted) -> np.ndarray:
    """``[m, C]`` of the target examples."""
    return calibration.apply_temperature(fitted.target_logits, 1.0, task="single_label")


def _check_mix(spec: TransferSpec, cut: Boundary) -> None:
    """Raises ArgumentError where there is no map to cut from."""
    if spec.mix == "cutmix" and (len(cut.shapes) != 1 or len(cut.shapes[0]) != 3):
        raise ArgumentError(
            f"mix='cutmix' above {cut}, expected one map of height, width and channels",
            where="--mix",
            next_action="use --unfreeze=last:1, or --mix=mixup",
        )


def _selected(
    fitted: dict[str, Fitted], found: Features, spec: TransferSpec
) -> tuple[dict[str, Any], Fitted]:
    """The method that was asked for, or auto's choice; with every criterion for each."""
    weights = domainfit.importance(found)
    rows = {name: domainfit.judged(fit, found, weights=weights) for name, fit in fitted.items()}
    beyond = " beyond the shots" if len(found.shot_labels) else ""
    if spec.adapt.method == "auto":
        name = max(rows, key=lambda method: rows[method]["reverse"])
        sentence = f"{name}: {JUDGED}{beyond}, among {', '.join(rows)}"
    else:
        name = spec.adapt.method
        sentence = f"{name}: as asked for; no target label{beyond} was used"
    return {"chosen": name, "criteria": rows, "sentence": sentence}, fitted[name]


def run_adaptation_report(
    done: Adapted, manifest: Manifest, run: RunDir, *, command: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluates on the target if it has labels, and commits the report."""
    trained, spec = done.trained, done.plan.spec
    data = trained.batches(manifest.split("test"))
    logits = trained.logits(data)
    extra, context = _context(done, manifest, run, command)
    extra["answers"] = _counts(logits, trained.classes)
    baseline = calibration.apply_temperature(done.baseline.target_logits, 1.0, task=trained.task)
    labelled = all(record.label is not None for record in data.records)
    if labelled:
        targets = targets_of(data)
        found = evaluate.build_report(
            logits,
            targets,
            task=trained.task,
            classes=trained.classes,
            rule=trained.rule,
            baselines={SOURCE_ONLY: baseline},
            verdict=verdict.compare(
                logits.argmax(axis=1) == targets,
                baseline.argmax(axis=1) == targets,
                a_name="transfer",
                b_name="the source-only model",
                groups=groups_of(data.records),
            ),
            groups=groups_of(data.records),
            seed=spec.seed,
            **context,
        ) | {"adaptation": extra}
    else:
        found = {
            "task": trained.task,
            "n": data.n,
            "classes": list(trained.classes),
            "metrics": {},
            "per_class": {},
            "confusion": [],
            "baselines": {},
            "verdict": None,
            **context,
            "adaptation": extra,
        }
    found["summary"] = summary(found)
    with sealed.committed(run.report) as folder:
        write_report(folder, found, done.chosen.history, title=run.path.name)
        rows = "".join(_rows(done, data, logits))
        storage.write_text(folder / "predictions.jsonl", rows)
    history = "".join(json.dumps(row) + "\n" for row in done.chosen.history)
    storage.write_text(run.history, history)
    return found


def _counts(logits: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """How often each class is the answer."""
    counts = np.bincount(logits.argmax(axis=1), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _context(
    done: Adapted, manifest: Manifest, run: RunDir, command: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the report says beside the numbers: of the adaptation, and as every report does."""
    spec = done.plan.spec
    extra = {
        "distance": done.distance,
        "selection": done.selection,
        "notes": list(done.chosen.notes),
    }
    if done.shares:
        extra["sources"] = done.shares
        extra["notes"].append(sourcemix.told(done.shares))
    context = {
        "data": evaluate.data_block(manifest),
        "plan": [
            {"choice": c.field, "value": c.value, "reason": c.reason} for c in done.plan.choices
        ],
        "provenance": evaluate.provenance_block(
            spec=json.loads(spec.to_json()),
            command=command,
            hashes={
                "data": manifest.digest(),
                "weights": storage.file_sha256(run.weights / "model.safetensors"),
            },
        ),
    }
    return extra, context


def _rows(done: Adapted, data: Batches, logits: np.ndarray) -> Iterator[str]:
    """One JSON line per target record."""
    trained = done.trained
    p = calibration.apply_temperature(logits, trained.rule.temperature, task=trained.task)
    for i, record in enumerate(data.records):
        row = {
            "id": printable(record.id),
            "label": record.label,
            "predicted": trained.classes[p[i].argmax()],
            "probabilities": [round(float(x), 6) for x in p[i]],
            "baselines": {SOURCE_ONLY: trained.classes[done.baseline.target_logits[i].argmax()]},
        }
        yield json.dumps(row) + "\n"


def _features(
    model: Trained,
    cut: Boundary,
    spec: TransferSpec,
    manifest: Manifest,
    *,
    say: Say,
    progress: bool,
) -> Features:
    """What crosses the boundary, for every record of both domains, through the store."""
    names = ("train", "val", "test", *((SHOTS,) if spec.adapt.shots else ()))
    parts = {name: model.batches(manifest.split(name)) for name in names}
    arrays = frozen.crossing(cut, parts, spec, say=say, progress=progress)
    return Features(
        train=arrays["train"],
        labels=targets_of(parts["train"]),
        val=arrays["val"],
        val_labels=targets_of(parts["val"]),
        target=arrays["test"],
        shots=arrays.get(SHOTS, ()),
        shot_labels=targets_of(parts[SHOTS]) if SHOTS in parts else np.empty(0, np.int64),
    )


def _with_domain_norm(model: keras.Model) -> keras.Model:
    """The classifier with statistics per domain after the pooling of its head."""
    pool, *rest = model.get_layer(heads.HEAD).layers
    norm = DomainBatchNormalization(dtype="float32", name="domain_norm")
    return classifier(backbone_of(model), keras.Sequential([pool, norm, *rest], name=heads.HEAD))


def _with_target_statistics(
    model: Trained, cut: Boundary, manifest: Manifest, fitted: Fitted
) -> Fitted:
    """AdaBN: the BatchNorm statistics become the target's; nothing else moves.

    What was computed before it no longer holds, for the validation split neither: criteria,
    temperature and threshold are those of the model that is served.
    """
    target, val = (model.batches(manifest.split(name)) for name in ("test", "val"))
    adapt_batch_norm(model.model, (x for x, _, _ in target.eval_dataset()))
    return dataclasses.replace(
        fitted,
        weights=[np.array(v.numpy()) for v in cut.tail.variables],
        target_logits=model.logits(target),
        val_logits=model.logits(val),
    )
