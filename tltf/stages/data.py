"""Stage 1: the manifest of the run, named, scanned and split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tltf import effort, storage
from tltf.data import columns, prepare
from tltf.data.manifest import BadInputsError, Excluded, Manifest
from tltf.errors import MismatchError, named_list
from tltf.rundir import RunDir
from tltf.spec import TransferSpec
from tltf.terminal import counted

Say = Callable[[str], None]


def read_data(
    spec: TransferSpec, *, progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """The manifest of the run's one domain, or of source and target together.

    Args:
      progress: called with files done and files in all.

    Raises:
      DataError, InputMissingError, DownloadError: see :func:`tltf.data.prepare.prepared`.
    """
    if not spec.adapt.target:
        return prepare.prepared(
            spec.data, seed=spec.seed, folds_below=effort.wants_folds(spec), progress=progress
        )
    return prepare.two_domains(
        spec.data,
        spec.adapt.target,
        seed=spec.seed,
        shots=spec.adapt.shots,
        more=spec.adapt.sources,
        progress=progress,
    )


def run_data(spec: TransferSpec, run: RunDir, *, say: Say) -> Manifest:
    """Prepares the data and commits ``manifest.jsonl`` and ``bad_inputs.jsonl``.

    Raises:
      MismatchError: the run was begun with other data.
      DataError, InputMissingError, DownloadError: see :func:`tltf.data.prepare.prepared`.
    """
    try:
        with counted("scan", unit="files") as progress:
            manifest = read_data(spec, progress=progress)
    except BadInputsError as error:
        _write_excluded(run, error.excluded)
        raise
    if run.has(run.manifest):
        _check_unchanged(run, manifest, spec)
    else:
        _write_excluded(run, (e for e in manifest.excluded if e.outcome == "bad"))
        run.commit(run.manifest, "".join(manifest.to_json_lines()))
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
    before = committed_manifest(run)
    if before.digest() != manifest.digest():
        raise MismatchError(
            f"the data changed since the run began: {named_list(changes(before, manifest))}",
            where=spec.data.source,
            kept="the run as it is",
            next_action="restore the data, use another --workdir, or --fresh to start over",
        )


def committed_manifest(run: RunDir) -> Manifest:
    """The manifest that the run began with.

    Raises:
      InputMissingError, StorageError: it has none, or its file is damaged.
      MismatchError: it was begun with an index that is another one now.
    """
    lines = run.read_committed(run.manifest).splitlines()
    header = json.loads(lines[0])
    if "index" in header:
        return _same_index(Path(header["index"]), header["digest"], run)
    return Manifest.from_json_lines(lines)


def _same_index(folder: Path, digest: str, run: RunDir) -> Manifest:
    found = columns.opened(folder)
    if found.digest() != digest:
        raise MismatchError(
            "the index is not the one that the run began with",
            where=folder,
            kept=f"the run folder {run.path}",
            next_action="put the original back, or use --fresh to start over",
        )
    return found


def changes(before: Manifest, now: Manifest) -> list[str]:
    """``field: old -> new`` of classes, task, number of examples, then of single examples."""
    found = []
    if before.task != now.task:
        found.append(f"task: {before.task} -> {now.task}")
    if before.classes != now.classes:
        found.append(f"classes: {named_list(before.classes)} -> {named_list(now.classes)}")
    if len(before.records) != len(now.records):
        found.append(f"examples: {len(before.records)} -> {len(now.records)}")
    old, new = ({r.id: r for r in m.records} for m in (before, now))
    found += [f"{name}: absent -> new" for name in new if name not in old]
    found += [f"{name}: there -> gone" for name in old if name not in new]
    for name in (name for name in old if name in new):
        for field in ("sha256", "label", "split", "group", "weight"):
            a, b = getattr(old[name], field), getattr(new[name], field)
            if a != b:
                short = (str(x)[:12] if field == "sha256" else repr(x) for x in (a, b))
                found.append(f"{field} of {name}: {' -> '.join(short)}")
    return found or ["the order of the examples"]


def _write_excluded(run: RunDir, excluded: Iterable[Excluded]) -> None:
    rows = ({"id": e.id, "outcome": e.outcome, "reason": e.reason} for e in excluded)
    storage.write_text(run.bad_inputs, "".join(json.dumps(row) + "\n" for row in rows))
