"""Stage 4: the servable, verified on held-out files, in ``export/`` or where it was asked for."""

from __future__ import annotations

from pathlib import Path

from tltf import storage, trained
from tltf.data.manifest import Manifest
from tltf.errors import ArgumentError
from tltf.evaluation.gate import Gate
from tltf.models.classifier import backbone_of
from tltf.rundir import RunDir
from tltf.serving.export import export
from tltf.serving.reusable import export_reusable
from tltf.spec import TransferSpec
from tltf.trained import Trained


def run_exporting(
    model: Trained, spec: TransferSpec, manifest: Manifest, run: RunDir
) -> Path | None:
    """Publishes one version; None for ``export=none``."""
    if spec.export == "none":
        return None
    to = run.export if spec.export == "auto" else Path(spec.export)
    return publish_trained(model, spec, manifest, to)


def export_run(run: RunDir, to: Path, *, gate: Gate | None = None) -> Path:
    """Publishes the model of a trained run below ``to``.

    Raises:
      InputMissingError: the run has no trained model or no report yet.
      GateError: the run's report does not meet the gate; nothing is published.
    """
    model = trained.load(run.weights)
    if gate is not None:
        gate.check(storage.read_json(run.report / "report.json"), kept=run.path)
    manifest = Manifest.from_json_lines(run.manifest.read_text("utf-8").splitlines())
    return publish_trained(model, run.read_spec(), manifest, to)


def export_reusable_run(run: RunDir, to: Path, *, gate: Gate | None = None) -> Path:
    """Publishes the backbone of a trained run as a reusable module below ``to``.

    Raises:
      InputMissingError: the run has no trained model or no report yet.
      ArgumentError: its model has no backbone of images.
      GateError: the run's report does not meet the gate; nothing is published.
    """
    model = trained.load(run.weights).model
    if gate is not None:
        gate.check(storage.read_json(run.report / "report.json"), kept=run.path)
    backbone = backbone_of(model)
    if backbone is None:
        raise ArgumentError("the model has no backbone", where="--reusable")
    pooling = run.read_spec().head.pooling
    return export_reusable(backbone, to=to, pooling="avg" if pooling == "flatten" else pooling)


def publish_trained(model: Trained, spec: TransferSpec, manifest: Manifest, to: Path) -> Path:
    """Publishes the model below ``to`` after comparing it on the test split's files."""
    return export(
        model.model,
        to=to,
        labels=model.classes,
        task=model.task,
        temperature=model.rule.temperature,
        threshold=model.rule.threshold,
        image_size=model.image_size,
        examples=[record.path for record in manifest.split("test") if record.path],
        spec_json=spec.to_json(),
    )
