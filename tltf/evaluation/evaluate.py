"""From predictions to the dictionary that is report.json (DESIGN 4.5)."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tltf.data.manifest import SPLITS, Manifest
from tltf.errors import ArgumentError
from tltf.evaluation.calibration import apply_temperature, calibration_block
from tltf.evaluation.estimates import estimates
from tltf.evaluation.inputs import (
    Floats,
    Ints,
    check_classes,
    check_outputs,
    check_probabilities,
    check_targets,
    check_task,
)
from tltf.evaluation.intervals import effective_n, units_of
from tltf.evaluation.metrics import (
    confusion_matrix,
    metric_values,
    per_class_table,
    predicted_labels,
)
from tltf.evaluation.rejection import DecisionRule, reject_block
from tltf.evaluation.summary import summary
from tltf.evaluation.verdict import Verdict

N_RESAMPLES = 2000
MOST_EXCLUDED_LISTED = 200
MOST_POINTS = 500
PACKAGES = ("tltf", "tensorflow", "keras", "numpy", "scipy", "scikit-learn")

Block = dict[str, Any]


def evaluate(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    task: str,
    classes: Sequence[str],
    groups: Sequence[object] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Block:
    """Metrics with 95 % intervals, the per-class table and the confusion matrix.

    Args:
      probabilities: [n, C] in [0, 1], rows of single_label sum to one; for a regression the
        predictions [n] or [n, 1].
      targets: class indices [n]; {0, 1} [n, C] for multi_label; numbers [n] for a regression.
      task: ``single_label``, ``multi_label`` or ``regression``.
      classes: C names in the order of the columns; empty for a regression.
      groups: the group of each record (patient, speaker, site), None or "" for none: intervals
        then take groups for independent, and every metric has ``groups``, how many there are.
      n_resamples: of the bootstrap, at least 100. AUROC and mAP use fewer (never under 200) when
        n * C * n_resamples is above 1e8.
      seed: of the bootstrap.

    Returns:
      ``{"task", "n", "classes", "metrics", "per_class", "confusion"}`` ready for strict JSON, and
      ``undefined``: metric -> why it has no value here. A regression has an empty table and
      matrix, and ``points``: up to 500 pairs for the scatter plot.

    Raises:
      ArgumentError: unknown task, shapes that do not belong together, bad class names.
      DataError: no rows, NaN, rows that do not sum to one, labels out of range.

    Example:
      >>> p = [[0.9, 0.1], [0.2, 0.8]]
      >>> report = evaluate(p, [0, 1], task="single_label", classes=["cat", "dog"])
      >>> report["metrics"]["accuracy"]["value"]
      1.0
    """
    check_task(task)
    names = check_classes(classes, task=task)
    outputs = check_probabilities(probabilities, task=task, n_classes=len(names))
    y = check_targets(targets, task=task, n=len(outputs), n_classes=len(names))
    units = units_of(groups, n=len(outputs))
    report: Block = {"task": task, "n": len(outputs), "classes": list(names)}
    if task == "regression":
        report |= {"per_class": {}, "confusion": [], "points": _points(outputs, y)}
    else:
        labels = np.asarray(y, dtype=np.int64)
        predicted = predicted_labels(outputs, task=task)
        confusion = confusion_matrix(labels, predicted, n_classes=len(names))
        right = (predicted == labels).reshape(len(labels), -1).mean(axis=1)
        report["per_class"] = per_class_table(
            confusion, names, deff=len(labels) / effective_n(right, units)
        )
        report["confusion"] = confusion.tolist()
    found = metric_values(outputs, y, task=task)
    metrics = estimates(
        outputs, y, found.values, task=task, units=units, n_resamples=n_resamples, seed=seed
    )
    report["metrics"] = {name: estimate.as_dict() for name, estimate in metrics.items()}
    report["undefined"] = found.undefined
    return report


def build_report(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    task: str,
    classes: Sequence[str],
    rule: DecisionRule | None = None,
    baselines: Mapping[str, ArrayLike] | None = None,
    verdict: Verdict | None = None,
    groups: Sequence[object] | None = None,
    data: Mapping[str, Any] | None = None,
    plan: Sequence[Mapping[str, Any]] = (),
    provenance: Mapping[str, Any] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Block:
    """The whole of report.json: :func:`evaluate` on calibrated probabilities, and its context.

    Args:
      logits: test logits [n, C], or a regression's predictions [n].
      targets: as in :func:`evaluate`.
      task: as in :func:`evaluate`.
      classes: as in :func:`evaluate`.
      rule: temperature and threshold fitted on validation; None means T = 1, nothing rejected.
      baselines: name -> probabilities (or predictions) on the same records.
      verdict: of :func:`tltf.evaluation.verdict.compare`.
      groups: as in :func:`evaluate`.
      data: of :func:`data_block`.
      plan: rows ``{"choice", "value", "reason"}``, what was decided and why.
      provenance: of :func:`provenance_block`.
      n_resamples: as in :func:`evaluate`.
      seed: as in :func:`evaluate`.

    Raises:
      ArgumentError, DataError: as :func:`evaluate`.
    """
    check_task(task)
    names = check_classes(classes, task=task)
    z = check_outputs(logits, task=task, n_classes=len(names), what="logits")
    settings: Block = {
        "task": task, "classes": names, "groups": groups, "n_resamples": n_resamples,
        "seed": seed,
    }  # fmt: skip
    chosen = rule or DecisionRule()
    probabilities = apply_temperature(z, chosen.temperature, task=task)
    report = evaluate(probabilities, targets, **settings)
    if task != "regression":
        y = np.asarray(targets, dtype=np.int64)
        report["calibration"] = calibration_block(z, y, temperature=chosen.temperature, task=task)
        report["reject"] = reject_block(
            probabilities, y, threshold=chosen.threshold, wanted=chosen.coverage, task=task,
            units=units_of(groups, n=len(y)),
        )  # fmt: skip
    report["baselines"] = baselines_block(baselines or {}, targets, **settings)
    report["verdict"] = verdict.as_dict() if verdict else None
    report["data"] = dict(data) if data else None
    report["plan"] = [dict(row) for row in plan]
    report["provenance"] = dict(provenance) if provenance else {}
    report["summary"] = summary(report)
    return report


def baselines_block(
    baselines: Mapping[str, ArrayLike],
    targets: ArrayLike,
    *,
    task: str,
    classes: Sequence[str],
    groups: Sequence[object] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, Block]:
    """Name -> ``{"metrics"}`` of each baseline on the same records, as :func:`evaluate`."""
    settings: Block = {
        "task": task, "classes": classes, "groups": groups, "n_resamples": n_resamples,
        "seed": seed,
    }  # fmt: skip
    return {
        name: {"metrics": evaluate(outputs, targets, **settings)["metrics"]}
        for name, outputs in baselines.items()
    }


def data_block(manifest: Manifest) -> Block:
    """What the report says about the data.

    Returns:
      ``counts`` split -> class -> n, ``totals`` split -> records, ``excluded`` (the first 200 of
      ``n_excluded``) with outcome and reason, and the manifest's ``notes``.
    """
    counts, sizes = manifest.counts(), manifest.sizes()
    splits = [s for s in SPLITS if s in counts] + [s for s in counts if s not in SPLITS]
    listed = manifest.excluded[:MOST_EXCLUDED_LISTED]
    return {
        "counts": {split: dict(counts[split]) for split in splits},
        "totals": {split: sizes[split] for split in splits},
        "excluded": [{"id": e.id, "outcome": e.outcome, "reason": e.reason} for e in listed],
        "n_excluded": len(manifest.excluded),
        "notes": list(manifest.notes),
    }


def provenance_block(
    *,
    spec: Mapping[str, Any],
    command: Sequence[str] = (),
    hashes: Mapping[str, str] | None = None,
    packages: Sequence[str] = PACKAGES,
) -> Block:
    """What is needed to get the same numbers again; no clock, so equal runs give equal reports.

    Args:
      spec: the resolved TransferSpec as a dict.
      command: argv; shown with shell quotes, or "" when not run from a shell.
      hashes: what -> SHA-256, for example ``{"data": ..., "weights": ...}``.
      packages: distributions whose installed versions are recorded (absent ones are left out).
    """
    if isinstance(command, str):
        raise ArgumentError(f"command={command!r}, expected a list of arguments", where="command")
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "spec": dict(spec),
        "command": shlex.join(command),
        "versions": versions,
        "hashes": dict(hashes or {}),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _points(predictions: Floats, targets: Ints | Floats) -> dict[str, list[float]]:
    """Evenly chosen pairs for the scatter plot of a regression."""
    step = np.linspace(0, len(predictions) - 1, min(len(predictions), MOST_POINTS)).astype(int)
    return {"true": targets[step].tolist(), "predicted": predictions[step].tolist()}
