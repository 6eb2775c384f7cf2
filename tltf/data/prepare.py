"""From a named source to the manifest of a run: load, scan, refuse or skip, split."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from tltf.data import duplicates, folders, headers, scan, scancache, sources, splits
from tltf.data.columns import IndexedManifest
from tltf.data.manifest import Manifest, Record, is_index
from tltf.data.scancache import ScanCache
from tltf.data.shots import SHOTS, with_shots
from tltf.data.spreading import spread
from tltf.errors import ArgumentError, DataError, InputMissingError, named_list
from tltf.spec import DataSpec

SAMPLED_SIDES = 200


def prepared(
    spec: DataSpec,
    *,
    seed: int,
    folds_below: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """The scanned and split manifest of ``spec``.

    Args:
      spec: where the data is and what may be done about bad files.
      seed: of the split.
      folds_below: where fewer records are there to learn from, no ``val`` is carved: they will be
        validated across folds.
      progress: called with files done and files in all.

    Raises:
      InputMissingError, DataError, DownloadError: see the steps.
    """
    manifest = sources.load_spec(spec)
    if isinstance(manifest, IndexedManifest):
        return manifest  # scanned and split when it was made
    examined = scan.examine(manifest, max_image_pixels=spec.max_image_pixels, progress=progress)
    manifest = scan.apply_policy(
        examined.manifest, bad_files=spec.bad_files, max_bad_fraction=spec.max_bad_fraction
    )
    alike = duplicates.near_duplicates(manifest.records, examined.findings)
    records = duplicates.with_alike(manifest.records, alike)
    manifest = splits.split(
        dataclasses.replace(manifest, records=tuple(records)),
        val_fraction=0.0 if _labelled(records, spec) < folds_below else spec.val_fraction,
        test_fraction=spec.test_fraction,
        seed=seed,
        fail_on_leak=spec.fail_on_leak,
    )
    pairs = duplicates.across(alike, manifest.records)
    if pairs and spec.fail_on_leak:
        raise DataError(
            duplicates.near_note(pairs),
            where="--fail_on_leak",
            next_action="remove them from one of the splits, or give each pair one group",
        )
    left = duplicates.uncompared(manifest.records, examined.findings)
    # That small pictures have no look-alikes is a matter of an audit.
    beyond = str(dataclasses.replace(left, plain=0))
    notes = [note for note in (duplicates.near_note(pairs), beyond) if note]
    return dataclasses.replace(manifest, notes=(*manifest.notes, *notes))


def _labelled(records: Sequence[Record], spec: DataSpec) -> float:
    """How many records there will be to learn from, those of a carved ``val`` among them."""
    here = sum(record.split in (None, "train") for record in records)
    tested = any(record.split == "test" for record in records)
    return here if tested else here * (1 - spec.test_fraction)


def two_domains(
    spec: DataSpec,
    target: str,
    *,
    seed: int,
    shots: int = 0,
    more: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Source records as ``train`` and ``val``, every target record as ``test``; for adaptation.

    A ``test`` split that the source names is not used. Target labels are those of class folders
    or tables; a flat folder of images has none. With ``shots`` as many target examples of each
    class are taken out of ``test`` (:mod:`tltf.data.shots`). ``more`` are further sources; the
    ``slice`` of a source record is the name of its source then.

    Raises:
      DataError: sources of different classes, no target records, target classes that the source
        does not have, or labels that are no single classes.
    """
    source = _source(spec, seed=seed, progress=progress)
    if more:
        each = [_source(dataclasses.replace(spec, source=name), seed=seed, progress=progress)
                for name in more]  # fmt: skip
        source = _together((spec.source, *more), (source, *each))
    path = Path(target)
    found = folders.load_flat(path.absolute()) if path.is_dir() else None
    found = found or sources.load(target, encoding=spec.encoding)
    found = scan.scan(found, max_image_pixels=spec.max_image_pixels, progress=progress)
    found = scan.apply_policy(
        found, bad_files=spec.bad_files, max_bad_fraction=spec.max_bad_fraction
    )
    unknown = [name for name in found.classes if name not in source.classes]
    if unknown or not found.records:
        what = f"classes that the source does not have: {named_list(unknown)}"
        raise DataError(
            what if unknown else "no target examples",
            where=target,
            next_action=f"the source has {named_list(source.classes)}; a folder without"
            " sub-folders is taken as unlabelled",
        )
    records = [_named(r, "source", r.split) for r in source.records]
    targets: Sequence[Record] = [_named(r, "target", "test") for r in found.records]
    labelled = "labelled, for the final number only" if found.classes else "without labels"
    notes = [f"target: {len(found.records)} examples, {labelled}; shown as test"]
    if shots:
        targets = with_shots(targets, shots, seed=seed, where=target)
        taken = sum(record.split == SHOTS for record in targets)
        notes.append(f"shots: {taken} of them are learned from with their labels, and not measured")
    return dataclasses.replace(
        source,
        records=(*records, *targets),
        excluded=(*source.excluded, *found.excluded),
        notes=(*source.notes, *notes),
    )


def _source(spec: DataSpec, *, seed: int, progress: Callable[[int, int], None] | None) -> Manifest:
    """One source of an adaptation, without its test split."""
    if is_index(spec.source):
        raise ArgumentError(
            "an index, which adaptation does not read",
            where=spec.source,
            next_action="name the table itself",
        )
    source = prepared(dataclasses.replace(spec, test_fraction=0.0), seed=seed, progress=progress)
    if source.task != "single_label":
        raise DataError(f"{source.task} data, adaptation wants one class each", where=spec.source)
    records = tuple(r for r in source.records if r.split != "test")
    return dataclasses.replace(source, records=records)


def _together(names: Sequence[str], sources: Sequence[Manifest]) -> Manifest:
    """Several sources of the same classes as one; each record knows which it is from."""
    first = sources[0]
    for name, other in zip(names, sources, strict=True):
        if other.classes != first.classes:
            apart = sorted({*other.classes} ^ {*first.classes})
            raise DataError(
                f"sources of different classes: {named_list(apart)} in one of them only",
                where=f"{names[0]}, {name}",
                next_action="give every source a folder for each class, named alike",
            )
    records = [
        dataclasses.replace(record, id=f"{k}/{record.id}", slice=name)
        for k, (name, one) in enumerate(zip(names, sources, strict=True), start=1)
        for record in one.records
    ]
    return dataclasses.replace(
        first,
        records=tuple(records),
        excluded=tuple(e for one in sources for e in one.excluded),
        notes=tuple(f"{name}: {note}" for name, one in zip(names, sources, strict=True)
                    for note in one.notes),
    )  # fmt: skip


def _named(record: Record, domain: str, split: str | None) -> Record:
    return dataclasses.replace(record, id=f"{domain}/{record.id}", split=split)


def scanned(spec: DataSpec, *, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """The manifest with every file decoded once, not split; for evaluation on other data."""
    manifest = sources.load_spec(spec)
    if isinstance(manifest, IndexedManifest):
        return manifest
    manifest = scan.scan(manifest, max_image_pixels=spec.max_image_pixels, progress=progress)
    return scan.apply_policy(
        manifest, bad_files=spec.bad_files, max_bad_fraction=spec.max_bad_fraction
    )


def unlabelled(source: str, *, max_image_pixels: int) -> Manifest:
    """Every image below a folder, without labels; what cannot be used is in ``excluded``.

    Raises:
      InputMissingError: there is no such folder.
      DataError: there is no image in it.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise InputMissingError("no such folder", where=source, next_action="name a folder")
    listed = folders.list_files(folder.absolute())
    manifest = scan.scan(listed, max_image_pixels=max_image_pixels)
    if not manifest.records:
        raise DataError("no image in it", where=source, next_action="put images there")
    return manifest


def median_side(records: Sequence[Record]) -> int:
    """Median of the images' shorter sides in pixels, from the headers of up to 200 of them, which
    the scan has kept; 0 for texts."""
    if records and records[0].path is None:
        return 0
    sampled = spread(records, most=SAMPLED_SIDES)
    with scancache.opened() as cache:
        return int(statistics.median(_shorter_side(record, cache) for record in sampled))


def _shorter_side(record: Record, cache: ScanCache) -> int:
    known = cache.found_in(record.sha256) if record.sha256 else None
    if known:
        header = headers.Header(**known["header"])
    else:
        data = Path(record.path or "").read_bytes()
        header = headers.read_header(data, headers.kind_of(data) or "")
    return min(header.width, header.height)
