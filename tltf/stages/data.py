"""Stage 1: the manifest of the run, named, scanned and split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from tltf import storage
from tltf.data import prepare
from tltf.data.manifest import BadInputsError, Excluded, Manifest
from tltf.errors import MismatchError
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.terminal import counted

Say = Callable[[str], None]


def run_data(spec: TransferSpec, run: RunDir, *, say: Say) -> Manifest:
    """Prepares the data and commits ``manifest.jsonl`` and ``bad_inputs.jsonl``.

    Raises:
      MismatchError: the run was begun with other data.
      DataError, InputMissingError, DownloadError: see :func:`tltf.data.prepare.prepared`.
    """
    try:
        with counted("scan", unit="files") as progress:
            if spec.adapt.target:
                manifest = prepare.two_domains(
                    spec.data, spec.adapt.target, seed=spec.seed, progress=progress
                )
            else:
                manifest = prepare.prepared(spec.data, seed=spec.seed, progress=progress)
    except BadInputsError as error:
        _write_excluded(run, error.excluded)
        raise
    if run.manifest.exists():
        _check_unchanged(run, manifest, spec)
    else:
        _write_excluded(run, (e for e in manifest.excluded if e.outcome == "bad"))
        storage.write_text(run.manifest, "".join(manifest.to_json_lines()))
    for sentence in described(manifest):
        say(sentence)
    return manifest


def described(manifest: Manifest) -> list[str]:
    """What a person should know about the data before training."""
    sizes = ", ".join(f"{len(manifest.split(s))} {s}" for s in ("train", "val", "test"))
    kind = f"{len(manifest.classes)} classes" if manifest.classes else "numbers"
    ignored = sum(e.outcome == "ignored" for e in manifest.excluded)
    bad = len(manifest.excluded) - ignored
    tail = f"; {bad} bad, {ignored} ignored" if manifest.excluded else ""
    return [f"data: {sizes}; {manifest.task}, {kind}{tail}", *manifest.notes]


def _check_unchanged(run: RunDir, manifest: Manifest, spec: TransferSpec) -> None:
    before = Manifest.from_json_lines(run.manifest.read_text("utf-8").splitlines())
    if before.digest() != manifest.digest():
        raise MismatchError(
            f"the data changed since the run began: {len(before.records)} ->"
            f" {len(manifest.records)} examples, or other contents, labels or splits",
            where=spec.data.source,
            kept="the run as it is",
            next_action="restore the data, use another --workdir, or --fresh to start over",
        )


def _write_excluded(run: RunDir, excluded: Iterable[Excluded]) -> None:
    rows = ({"id": e.id, "outcome": e.outcome, "reason": e.reason} for e in excluded)
    storage.write_text(run.bad_inputs, "".join(json.dumps(row) + "\n" for row in rows))
