"""Stage 3: the test split, once; leaves ``report/report.json``, ``report.html`` and pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tltf import recipes, storage
from tltf import trained as trained_of
from tltf.data import prepare
from tltf.data.batches import Batches
from tltf.data.manifest import Manifest
from tltf.errors import printable
from tltf.evaluation import baselines, calibration, evaluate, plots, report, verdict
from tltf.evaluation.baselines import Split
from tltf.models import heads
from tltf.models.classifier import classifier
from tltf.rundir import RunDir
from tltf.stages.training import TrainingResult, pretrained_backbone, targets_of
from tltf.trained import Trained
from tltf.training import environment


def run_reporting(
    result: TrainingResult, manifest: Manifest, run: RunDir, *, command: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluates on the test split and commits the report."""
    trained, spec = result.trained, result.plan.spec
    data = trained.batches(manifest.split("test"))
    logits, targets = trained.logits(data), targets_of(data)
    simple = _baselines(trained, result.plan, manifest) if spec.baselines else {}
    found = evaluate.build_report(
        logits,
        targets,
        task=trained.task,
        classes=trained.classes,
        rule=trained.rule,
        baselines=simple,
        verdict=_verdict(logits, simple, targets, trained.task) if simple else None,
        data=evaluate.data_block(manifest),
        plan=[
            {"choice": c.field, "value": c.value, "reason": c.reason} for c in result.plan.choices
        ],
        provenance=evaluate.provenance_block(
            spec=json.loads(spec.to_json()),
            command=command,
            hashes={
                "data": manifest.digest(),
                "weights": storage.file_sha256(run.weights / "model.safetensors"),
            },
        ),
        seed=spec.seed,
    )
    write_report(run.report, found, result.fit.history, title=run.path.name)
    rows = _predictions(trained, data, logits, simple)
    storage.write_text(run.report / "predictions.jsonl", "".join(rows))
    return found


def _predictions(
    trained: Trained, data: Batches, logits: np.ndarray, simple: dict[str, np.ndarray]
) -> Iterator[str]:
    """One JSON line per test record: what it is, what was said, and what the baselines say."""
    probabilities = calibration.apply_temperature(
        logits, trained.rule.temperature, task=trained.task
    )
    named = {name: _named(trained, outputs) for name, outputs in simple.items()}
    said = _named(trained, probabilities)
    for i, record in enumerate(data.records):
        row = {"id": printable(record.id), "label": record.label, "predicted": said[i]}
        if trained.task != "regression":
            row["probabilities"] = [round(float(p), 6) for p in probabilities[i]]
        row["baselines"] = {name: found[i] for name, found in named.items()}
        yield json.dumps(row) + "\n"


def _named(trained: Trained, outputs: np.ndarray) -> list[Any]:
    """Class names (lists of them for multi_label), or numbers."""
    if trained.task == "regression":
        return [float(value) for value in np.asarray(outputs).reshape(len(outputs))]
    if trained.task == "single_label":
        return [trained.classes[i] for i in outputs.argmax(axis=1)]
    return [[c for c, p in zip(trained.classes, row, strict=True) if p >= 0.5] for row in outputs]


def evaluate_run(
    run: RunDir, source: str, *, bad_files: str = "error", out: Path | None = None
) -> dict[str, Any]:
    """The report of a trained run on all records of other data; written to ``out`` if given.

    Raises:
      DataError: unreadable files, or classes that the model does not know.
    """
    model = trained_of.load(run.weights)
    spec = run.read_spec()
    wanted = dataclasses.replace(
        spec.data, source=source, task=model.task, bad_files=bad_files, group_column=None
    )
    manifest = prepare.scanned(wanted)
    trained_of.check_classes(model.classes, manifest.classes, where=source)
    manifest = dataclasses.replace(manifest, classes=model.classes)
    data = model.batches(manifest.records)
    found = evaluate.build_report(
        model.logits(data),
        targets_of(data),
        task=model.task,
        classes=model.classes,
        rule=model.rule,
        data=evaluate.data_block(manifest),
        provenance=evaluate.provenance_block(
            spec=json.loads(spec.to_json()),
            hashes={
                "data": manifest.digest(),
                "weights": storage.file_sha256(run.weights / "model.safetensors"),
            },
        ),
        seed=spec.seed,
    )
    if out is not None:
        write_report(out, found, [], title=f"{run.path.name} on {Path(source).name}")
    return found


def write_report(
    folder: Path, found: dict[str, Any], history: list[dict[str, Any]], *, title: str
) -> None:
    """``report.json``, ``report.html`` and the pictures as PNG files, each atomically."""
    folder.mkdir(exist_ok=True)
    for name, png in plots.report_figures(found, history).items():
        storage.write_bytes(folder / f"{name}.png", png)
    storage.write_text(folder / "report.html", report.write_html(found, history, title=title))
    storage.write_json(folder / "report.json", found)


def _baselines(trained: Trained, plan: recipes.Plan, manifest: Manifest) -> dict[str, np.ndarray]:
    """Majority class, and a linear probe on the features as they were before tuning."""
    spec = plan.spec
    with environment.precision_policy(spec.precision):
        head = heads.head(max(1, len(trained.classes)), pooling=spec.head.pooling)
        untouched = dataclasses.replace(
            trained, model=classifier(pretrained_backbone(spec, manifest), head)
        )
    splits = {}
    for name in ("train", "val", "test"):
        data = untouched.batches(manifest.split(name))
        splits[name] = Split(features=untouched.features(data), targets=data.targets())
    train, n = splits["train"], len(splits["test"].targets)
    return {
        "majority": baselines.majority(train.targets, n=n),
        "linear_probe": baselines.linear_probe(
            train, splits["val"], splits["test"].features, task=trained.task
        ),
    }


def _verdict(
    logits: np.ndarray, simple: dict[str, np.ndarray], targets: np.ndarray, task: str
) -> verdict.Verdict:
    """The model against its linear probe, on the same test records."""
    probe = simple["linear_probe"]
    names = {"a_name": "this model", "b_name": "a linear probe on frozen features"}
    if task == "regression":
        ours, theirs = (-np.abs(x[:, 0] - targets) for x in (logits, probe))
        return verdict.compare(ours, theirs, unit="MAE", **names)
    if task == "multi_label":
        ours = ((logits >= 0) == targets).all(axis=1)
        theirs = ((probe >= 0.5) == targets).all(axis=1)
    else:
        ours, theirs = (x.argmax(axis=1) == targets for x in (logits, probe))
    return verdict.compare(ours, theirs, **names)
