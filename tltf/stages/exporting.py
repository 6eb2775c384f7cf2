"""Stage 4: the servable, verified on held-out files, in ``export/`` or where it was asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from absl import logging

from tltf import sealed, storage, trained
from tltf.data.manifest import Manifest, Record
from tltf.data.spreading import spread
from tltf.data.textbytes import text_bytes
from tltf.errors import ArgumentError, TltfError
from tltf.evaluation.gate import Gate
from tltf.models.classifier import backbone_of
from tltf.rundir import RunDir
from tltf.serving import publish
from tltf.serving.candidate import Candidate, Published, publish_candidate
from tltf.serving.card import model_card
from tltf.serving.intake import ImageIntake
from tltf.serving.parity import EXAMPLES
from tltf.serving.reusable import export_reusable
from tltf.spec import TransferSpec
from tltf.stages.data import committed_manifest
from tltf.stages.portable import Portable, portable_files
from tltf.trained import Trained

DOCUMENTS = ("report.json", "report.html")


def run_exporting(
    model: Trained, spec: TransferSpec, manifest: Manifest, run: RunDir
) -> Path | None:
    """Publishes one version; None for ``export=none``."""
    if spec.export == "none":
        return None
    to = run.export if spec.export == "auto" else Path(spec.export)
    done = publish.newest(run.export) if spec.export == "auto" else None
    if done is not None and _whole(done):
        # This very run published it and was killed before it could note so.
        return done
    return publish_candidate(candidate(model, spec, manifest, run), to).folder


def export_run(
    run: RunDir,
    to: Path,
    *,
    gate: Gate | None = None,
    keep: int | None = None,
    wanted: Portable | None = None,
    say: Callable[[str], None] = logging.info,
) -> Published:
    """Publishes the model of a trained run below ``to``.

    Args:
      gate: what the run's report must meet.
      keep: how many versions stay; None keeps all.
      wanted: LiteRT and ONNX files to put into the version folder.
      say: receives what was measured of them.

    Raises:
      InputMissingError: the run has no trained model or no report yet.
      GateError: the run's report does not meet the gate, or a portable file loses accuracy;
        nothing is published.
    """
    model = trained.load(run.weights)
    if gate is not None:
        sealed.verify(run.report)
        gate.check(storage.read_json(run.report / "report.json"), kept=run.path)
    manifest = committed_manifest(run)
    ready = candidate(model, run.read_spec(), manifest, run)
    if wanted is not None:
        files = portable_files(model, manifest, wanted, say=say)
        ready = dataclasses.replace(ready, documents={**ready.documents, **files})
    return publish_candidate(ready, to, keep=keep)


def _whole(version: Path) -> bool:
    try:
        sealed.verify(version)
    except TltfError:
        return False
    return True


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


def candidate(model: Trained, spec: TransferSpec, manifest: Manifest, run: RunDir) -> Candidate:
    """The model with what its gate compares: logits on test records, by the evaluation's path."""
    records = spread(manifest.split("test"), most=EXAMPLES)
    # A small test split is filled up: validation was held out of training too.
    records += spread(manifest.split("val"), most=EXAMPLES - len(records))
    intake = model.intake
    if isinstance(intake, ImageIntake):
        intake = dataclasses.replace(intake, max_pixels=spec.data.max_image_pixels)
    documents = {
        name: (run.report / name).read_bytes()
        for name in DOCUMENTS
        if (run.report / name).is_file()
    }
    if "report.json" in documents:
        card = model_card(json.loads(documents["report.json"]), name=run.path.name)
        documents["model_card.md"] = card.encode("utf-8", "backslashreplace")
    return Candidate(
        model=model.model,
        decision=model.decision,
        intake=intake,
        rows=[_bytes(record) for record in records],
        logits=model.logits(model.batches(records)) if records else None,
        spec_json=spec.to_json(),
        documents=documents,
    )


def _bytes(record: Record) -> bytes:
    if record.path is not None:
        return Path(record.path).read_bytes()
    return text_bytes(record.text or "")
