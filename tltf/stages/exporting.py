"""Stage 4: the servable, verified on held-out files, in ``export/`` or where it was asked for."""

from __future__ import annotations

from pathlib import Path

from tltf.data.manifest import Manifest
from tltf.rundir import RunDir
from tltf.serving.export import export
from tltf.spec import TransferSpec
from tltf.trained import Trained


def run_exporting(
    trained: Trained, spec: TransferSpec, manifest: Manifest, run: RunDir
) -> Path | None:
    """Publishes one version; None for ``export=none``."""
    if spec.export == "none":
        return None
    to = run.export if spec.export == "auto" else Path(spec.export)
    return publish_trained(trained, spec, manifest, to)


def publish_trained(
    trained: Trained, spec: TransferSpec, manifest: Manifest, to: Path
) -> Path:
    """Publishes the model below ``to`` after comparing it on the test split's files."""
    return export(
        trained.model,
        to=to,
        labels=trained.classes,
        task=trained.task,
        temperature=trained.rule.temperature,
        threshold=trained.rule.threshold,
        image_size=trained.image_size,
        examples=[record.path or "" for record in manifest.split("test")],
        spec_json=spec.to_json(),
    )
