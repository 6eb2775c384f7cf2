"""What simpler things, and the same thing from scratch, do on the same split (DESIGN 5).

Majority class, nearest class mean and linear probe need the frozen features only. Head only,
from scratch and further seeds of the run itself are trained in folders below ``compare/``, with
the run's specification but for what their name says; a folder that is done is not trained again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tltf import effort, rundir, tensorfile
from tltf.data import splits
from tltf.data.manifest import Manifest, groups_of
from tltf.errors import TltfError
from tltf.evaluation import baselines, calibration, evaluate, verdict
from tltf.evaluation.baselines import Labelled
from tltf.interval import save_interval
from tltf.models import heads
from tltf.models.classifier import classifier
from tltf.probes import folds
from tltf.spec import Phase, TransferSpec
from tltf.stages.fitting import run_training
from tltf.stages.planning import pretrained_backbone
from tltf.stages.training import targets_of
from tltf.trained import Trained
from tltf.training import environment

Say = Callable[[str], None]
OWN, SCRATCH, HEAD = "two_phase", "from_scratch", "head_only"
LOGITS = "test_logits.safetensors"
NAMES = {
    SCRATCH: "training from scratch",
    "linear_probe": "a linear probe on frozen features",
    HEAD: "training the head only",
    "nearest_class_mean": "the nearest class mean",
    "majority": "the majority class",
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Outputs on the test split.

    Args:
      outputs: name -> probabilities (predictions of a regression) float64 ``[seeds, n, C]``; one
        seed for what does not depend on it.
      curve: of :func:`tltf.evaluation.baselines.label_curve`, or None.
      skipped: name -> why it was not compared.
    """

    outputs: Mapping[str, np.ndarray]
    curve: list[dict[str, Any]] | None
    skipped: Mapping[str, str]


def compared(
    model: Trained,
    spec: TransferSpec,
    manifest: Manifest,
    folder: Path,
    *,
    seeds: int = 1,
    say: Say,
    progress: bool = False,
) -> Compared:
    """Runs every baseline.

    Args:
      model: of the run.
      spec: resolved, of the run.
      manifest: of the run.
      folder: ``compare`` of the run folder.
      seeds: runs of everything that is trained, >= 1; the first of the run itself is ``model``.
      say: receives a sentence per training.
      progress: show bars.
    """
    outputs, curve = without_training(model, spec, manifest)
    skipped = {}
    data = model.batches(manifest.split("test"))
    own = [_probabilities(model, model.logits(data))]
    folder.mkdir(exist_ok=True)
    for name, why in _impossible(spec).items():
        skipped[name] = why
    for name in (OWN, HEAD, SCRATCH):
        if name in skipped:
            continue
        found = own if name == OWN else []
        try:
            for seed in range(len(found), seeds):
                say(f"compare: {name}, seed {spec.seed + seed}")
                variant = varied(spec, name, seed=spec.seed + seed)
                place = folder / f"{name}-{spec.seed + seed}"
                found.append(_trained_outputs(variant, manifest, place, progress=progress))
        except TltfError as error:
            # A comparison that cannot be made is said, and does not cost the run its report.
            skipped[name] = error.what
            continue
        outputs[name] = np.stack(found)
    outputs.setdefault(OWN, np.stack(own[:1]))
    return Compared(outputs=outputs, curve=curve, skipped=skipped)


def varied(spec: TransferSpec, name: str, *, seed: int) -> TransferSpec:
    """The specification of a baseline: the run's, but for what its name says."""
    phases, how = spec.phases, spec.effort
    backbone, views = spec.backbone, spec.views
    if name != OWN:
        how = effort.PLAN
    if name == HEAD:
        phases = tuple(p if p.unfreeze == "none" else _skipped(p) for p in phases)
    elif name == SCRATCH:
        epochs = sum(phase.epochs or 0 for phase in phases)
        last = phases[-1]
        rate = 1e-2 if last.optimizer == "sgd" else 1e-3
        scratch = Phase(
            "scratch",
            epochs,
            rate,
            unfreeze="all",
            batch_norm="adapt",
            optimizer=last.optimizer,
            momentum=last.momentum,
            schedule=last.schedule,
            warmup=last.warmup,
        )
        phases = (scratch,)
        backbone = dataclasses.replace(backbone, weights="none")
        # Without a frozen part nothing is kept, so every epoch can have views of its own.
        views = 0 if spec.augment != "none" else views
    return dataclasses.replace(
        spec, effort=how, phases=phases, backbone=backbone, views=views, seed=seed,
        baselines=False, export="none",
    )  # fmt: skip


def without_training(
    model: Trained, spec: TransferSpec, manifest: Manifest
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]] | None]:
    """What needs only the frozen features, those of before tuning.

    Args:
      model: of the run, for its classes and how it reads records.
      spec: resolved, of the run.
      manifest: of the run.

    Returns:
      name -> outputs ``[1, n, C]`` on the test split, and the label curve or None.
    """
    with environment.precision_policy(spec.precision):
        network = pretrained_backbone(spec, manifest)
        pooling = "avg" if len(network.output_shape) == 2 else spec.head.pooling
        head = heads.head(max(1, len(model.classes)), pooling=pooling)
        untouched = dataclasses.replace(model, model=classifier(network, head))
    records = (*manifest.split("train"), *manifest.split("val"))
    data = untouched.batches(records)
    train = Labelled(
        features=untouched.features(data),
        targets=data.targets(),
        folds=folds.stratified(
            splits.fold_strata(records, model.task), splits.components(records),
            count=baselines.FOLDS, seed=spec.seed,
        ),
    )  # fmt: skip
    test = untouched.batches(manifest.split("test"))
    features, truth = untouched.features(test), test.targets()
    outputs = {"majority": baselines.majority(train.targets, n=len(truth))}
    curve = None
    if model.task == "single_label":
        outputs["nearest_class_mean"] = baselines.nearest_class_mean(train, features)
        curve = baselines.label_curve(
            train, features, truth, seed=spec.seed, groups=groups_of(manifest.split("test"))
        )
    outputs["linear_probe"] = baselines.linear_probe(train, features, task=model.task)
    return {name: x[None] for name, x in outputs.items()}, curve


def blocks(
    found: Compared,
    targets: np.ndarray,
    *,
    classes: Any,
    task: str,
    seed: int,
    groups: Sequence[object] | None = None,
) -> Any:
    """``baselines``, ``verdict``, ``verdicts``, ``label_curve`` and ``skipped`` of report.json."""
    simple = {name: x for name, x in found.outputs.items() if name != OWN}
    table = evaluate.baselines_block(
        {name: x[0] for name, x in simple.items()}, targets, task=task, classes=classes, seed=seed,
        groups=groups,
    )  # fmt: skip
    scores = {name: _scores(x, targets, task) for name, x in found.outputs.items()}
    verdicts = {}
    for name in NAMES:
        if name in simple:
            ours, theirs = np.broadcast_arrays(scores[OWN], scores[name])
            unit = "MAE" if task == "regression" else "points"
            verdicts[name] = verdict.compare(
                ours, theirs, a_name="transfer", b_name=NAMES[name], unit=unit, seed=seed,
                groups=groups,
            ).as_dict()  # fmt: skip
    for name, block in table.items():
        block["seeds"] = len(found.outputs[name])
        if task != "regression":
            estimate = verdict.mean_accuracy(scores[name], groups=groups)
            block["mean_accuracy"] = estimate.as_dict()
    return {
        "baselines": table,
        "verdict": next(iter(verdicts.values()), None),
        "verdicts": verdicts,
        "label_curve": found.curve,
        "skipped_baselines": dict(found.skipped),
    }


def _impossible(spec: TransferSpec) -> dict[str, str]:
    reasons = {}
    if spec.backbone.weights == "none":
        reasons[SCRATCH] = "the run itself starts from random weights"
    if all(phase.unfreeze != "none" for phase in spec.phases):
        reasons[HEAD] = "the run has no phase that trains the head only"
    elif all(phase.unfreeze == "none" or not phase.epochs for phase in spec.phases):
        reasons[HEAD] = "the run itself trains the head only"
    return reasons


def _skipped(phase: Phase) -> Phase:
    return dataclasses.replace(phase, epochs=0)


def _trained_outputs(
    spec: TransferSpec, manifest: Manifest, folder: Path, *, progress: bool
) -> np.ndarray:
    """Probabilities on the test split of a training in a folder of its own."""
    with rundir.opened(folder) as run:
        kept = run.path / LOGITS
        if not kept.exists():
            result = run_training(
                spec, manifest, run, interval=save_interval("auto"), say=_silent, progress=progress
            )
            model = result.trained
            logits = model.logits(model.batches(manifest.split("test")))
            temperature = np.array([model.rule.temperature], np.float32)
            tensorfile.write_tensors(kept, {"logits": logits, "temperature": temperature})
            # Its answers are all that is wanted of it.
            for name in (run.states, run.weights):
                rundir.remove(name)
        tensors, _ = tensorfile.read_tensors(kept)
    return calibration.apply_temperature(
        tensors["logits"], float(tensors["temperature"][0]), task=manifest.task
    )


def _probabilities(model: Trained, logits: np.ndarray) -> np.ndarray:
    return calibration.apply_temperature(logits, model.rule.temperature, task=model.task)


def _scores(outputs: np.ndarray, targets: np.ndarray, task: str) -> np.ndarray:
    """[seeds, n]: whether each record is right, or minus the absolute error."""
    if task == "regression":
        return -np.abs(outputs[:, :, 0] - targets)
    if task == "multi_label":
        return np.asarray(((outputs >= 0.5) == targets).all(axis=2))
    return np.asarray(outputs.argmax(axis=2) == targets)


def _silent(sentence: str) -> None:
    """Of the trainings of a comparison only their result is told."""


def test_targets(model: Trained, manifest: Manifest) -> np.ndarray:
    """The truth of the test split."""
    return targets_of(model.batches(manifest.split("test")))
