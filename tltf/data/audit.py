"""Everything that can be said about labelled data before any training (``audit.json``)."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tltf.data import duplicates, folders, named_sets, scan, sources, splits, tables, textfiles
from tltf.data.duplicates import Pair, Uncompared
from tltf.data.imagefile import is_misnamed
from tltf.data.labels import check_classes
from tltf.data.manifest import SPLITS, BadInputsError, Manifest, Record, class_names, is_index
from tltf.data.scan import Examined, Finding
from tltf.errors import ArgumentError, DataError, printable
from tltf.spec import DataSpec

Block = dict[str, Any]
MOST_PAIRS = 500
_VERY_LONG_TEXT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Audited:
    """``found`` is audit.json; ``paths`` says where the file of each row is on this machine."""

    found: Block
    paths: Mapping[str, str]


def audit(
    spec: DataSpec, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Audited:
    """Lists, scans and splits the data as a training would, and goes on where that would stop.

    Args:
      spec: where the data is; ``fail_on_leak`` makes leaks across splits a problem.
      seed: of the split that near-duplicates are looked for across.
      progress: called with files done and files in all.

    Returns:
      ``found`` holds ``counts``, ``files`` (every one that was found),
      ``problems`` (why a training would refuse), ``notes``, ``task``, ``classes``,
      ``imbalance``, ``duplicates``, ``images`` and ``texts``.

    Raises:
      InputMissingError, DownloadError: there is nothing to look at.
      ArgumentError: a task or column that the source does not have.
    """
    manifest, problems = _listed(spec)
    examined = scan.examine(manifest, max_image_pixels=spec.max_image_pixels, progress=progress)
    divided, trouble = _divided(examined.manifest, spec, seed)
    problems += trouble
    exact = duplicates.exact_groups(divided.records)
    near = duplicates.near_duplicates(divided.records, examined.findings)
    across = [pair for pair in near if pair.across]
    if across and spec.fail_on_leak:
        problems.append(f"{len(across)} near-duplicate pairs across splits")
    files = _files(examined, exact)
    outcomes = Counter(row["outcome"] for row in files)
    names = ("ok", "warning", "bad", "ignored")
    found = {
        "data": spec.source,
        "counts": {"found": len(files), **{name: outcomes[name] for name in names}},
        "files": files,
        "problems": [printable(problem) for problem in problems],
        "notes": [printable(note) for note in divided.notes],
        "task": divided.task,
        **_classes(divided),
        "duplicates": _duplicates(exact, near)
        | _uncompared(duplicates.uncompared(divided.records, examined.findings)),
        "images": _images(examined),
        "texts": _texts(divided.records),
    }
    paths = {printable(r.id): r.path for r in examined.manifest.records if r.path}
    return Audited(found=found, paths=paths)


def is_clean(found: Mapping[str, Any]) -> bool:
    """Whether no file and no label stands in the way of a training."""
    return not found["counts"]["bad"] and not found["problems"]


def _listed(spec: DataSpec) -> tuple[Manifest, list[str]]:
    """Everything that the source names, and what is wrong with it as a whole."""
    path = Path(spec.source)
    named = spec.source == "digits" or spec.source.startswith(named_sets.PREFIXES)
    try:
        if is_index(path):
            raise ArgumentError(
                "an index, whose files were looked at when it was made",
                where=spec.source,
                next_action=f"see {path / 'bad_inputs.jsonl'}, or audit the table itself",
            )
        if path.is_dir() and not named and spec.group_column is None:
            listed = _list_folder(path.absolute(), spec.encoding)
            return listed.manifest, [*listed.problems, *_class_problems(listed.manifest)]
        loaded = sources.load_spec(spec)
        return loaded, []
    except BadInputsError as error:
        nothing = Manifest(task=spec.task, classes=(), records=(), excluded=error.excluded)
        return nothing, [f"{error.what}; the other rows were not looked at"]
    except DataError as error:
        if path.suffix.lower() not in tables.SUFFIXES:
            raise
        return Manifest(task=spec.task, classes=(), records=()), [error.what]


def _list_folder(folder: Path, encoding: str) -> folders.Listed:
    """Of images or of texts, as :func:`tltf.data.sources.load` tells them apart."""
    if textfiles.holds_texts(folder):
        return textfiles.list_text_folder(folder, encoding=encoding)
    return folders.list_folder(folder)


def _class_problems(manifest: Manifest) -> list[str]:
    if not manifest.records:
        return ["no class folders with files in them"]
    try:
        check_classes(manifest.classes, fewest=2, where="")
    except DataError as error:
        return [error.what]
    return []


def _divided(manifest: Manifest, spec: DataSpec, seed: int) -> tuple[Manifest, list[str]]:
    """The manifest as a training would split it, or as it is and why it would not."""
    if not manifest.records:
        return manifest, []
    try:
        return (
            splits.split(
                manifest,
                val_fraction=spec.val_fraction,
                test_fraction=spec.test_fraction,
                seed=seed,
                fail_on_leak=spec.fail_on_leak,
            ),
            [],
        )
    except BadInputsError as error:
        return manifest, [error.what]
    except DataError as error:
        # Other fractions, or a few more examples, would do: no fault of any file.
        note = f"a training with the default fractions would refuse: {error.what}"
        return dataclasses.replace(manifest, notes=(*manifest.notes, note)), []


def _files(examined: Examined, exact: Sequence[Sequence[Record]]) -> list[Block]:
    """One row for every file or row of a table that was found, in the order of their names."""
    copies = {record.id: group for group in exact for record in group}
    rows = [
        {"path": printable(x.id), "outcome": x.outcome, "reason": printable(x.reason)}
        for x in examined.manifest.excluded
    ]
    for record in examined.manifest.records:
        warnings, remarks = _remarks(record, examined.findings[record.id], copies.get(record.id))
        rows.append(
            {
                "path": printable(record.id),
                "outcome": "warning" if warnings else "ok",
                "reason": printable("; ".join(warnings + remarks)),
            }
        )
    return sorted(rows, key=lambda row: row["path"])


def _remarks(
    record: Record, found: Finding, copies: Sequence[Record] | None
) -> tuple[list[str], list[str]]:
    """What a person should look at, and what is merely worth a line."""
    warnings, remarks = [], []
    if found.suspect:
        warnings.append(f"suspect pixels: {found.suspect}")
    if found.header and found.header.orientation != 1:
        warnings.append(f"EXIF orientation {found.header.orientation}, which is ignored")
    if copies:
        other = next(copy for copy in copies if copy.id != record.id)
        conflict = any(copy.label != record.label for copy in copies)
        tail = ", with another label" if conflict else ""
        warnings.append(f"the same content as {other.id}{tail}")
    if found.header and is_misnamed(record, found.header):
        remarks.append(f"a {found.header.kind} by its content, which counts")
    if record.text and "\ufffd" in record.text:
        warnings.append("holds U+FFFD: characters were lost")
    if record.text and len(record.text) > _VERY_LONG_TEXT:
        warnings.append(f"{len(record.text):,} characters")
    return warnings, remarks


def _classes(manifest: Manifest) -> Block:
    """``classes``: split -> class -> n; ``imbalance``: the largest class over the smallest."""
    counts = manifest.counts()
    order = [name for name in SPLITS if name in counts]
    order += [name for name in counts if name not in SPLITS]
    total = Counter(name for r in manifest.records for name in class_names(r.label))
    sizes = [total[name] for name in manifest.classes]
    least = min(sizes, default=0)
    imbalance = max(sizes) / least if least else None
    return {
        "classes": {printable(name): _escaped(counts[name]) for name in order},
        "imbalance": imbalance,
    }


def _escaped(counts: Counter[str]) -> dict[str, int]:
    return {printable(name): counts[name] for name in sorted(counts)}


def _duplicates(exact: Sequence[Sequence[Record]], near: Sequence[Pair]) -> Block:
    return {
        "n_exact_groups": len(exact),
        "n_exact_copies": sum(len(group) - 1 for group in exact),
        "n_conflicts": sum(len({str(r.label) for r in group}) > 1 for group in exact),
        "n_near_pairs": len(near),
        "n_near_across_splits": sum(pair.across for pair in near),
        "exact": [
            {
                "sha256": group[0].sha256,
                "conflict": len({str(r.label) for r in group}) > 1,
                "files": [_member(record) for record in group],
            }
            for group in exact[:MOST_PAIRS]
        ],
        "near": [
            {
                "similarity": pair.similarity,
                "conflict": pair.conflict,
                "across_splits": pair.across,
                "files": [_member(pair.first), _member(pair.second)],
            }
            for pair in sorted(near, key=lambda p: (not p.across, not p.conflict))[:MOST_PAIRS]
        ],
    }


def _uncompared(found: Uncompared) -> Block:
    return {
        "n_beyond_comparison": found.beyond,
        "n_too_plain_to_compare": found.plain,
        "not_compared": str(found),
    }


def _member(record: Record) -> Block:
    label = record.label
    if isinstance(label, tuple):
        label = "|".join(label)
    return {
        "path": printable(record.id),
        "label": printable(label) if isinstance(label, str) else label,
        "split": record.split,
    }


def _images(examined: Examined) -> Block | None:
    found = [(r, examined.findings[r.id]) for r in examined.manifest.records if r.path]
    headers = [(record, f.header) for record, f in found if f.header]
    if not headers:
        return None
    return {
        "n": len(headers),
        "formats": _tally(header.kind for _, header in headers),
        "channels": _tally(header.channels for _, header in headers),
        "width": _spread([header.width for _, header in headers]),
        "height": _spread([header.height for _, header in headers]),
        "aspect": _spread([header.width / header.height for _, header in headers]),
        "turned_by_exif": sum(header.orientation != 1 for _, header in headers),
        "misnamed": sum(is_misnamed(record, header) for record, header in headers),
        "suspect": sum(bool(f.suspect) for _, f in found),
    }


def _texts(records: Sequence[Record]) -> Block | None:
    texts = [record.text for record in records if record.path is None and record.text is not None]
    if not texts:
        return None
    return {
        "n": len(texts),
        "characters": _spread([len(text) for text in texts]),
        "words": _spread([len(text.split()) for text in texts]),
        "repeated": len(texts) - len({duplicates.normalized(text) for text in texts}),
        "with_lost_characters": sum("\ufffd" in text for text in texts),
    }


def _tally(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Least, quartiles and largest."""
    if len(values) == 1:
        low = middle = high = float(values[0])
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    named = {"min": min(values), "q1": low, "median": middle, "q3": high, "max": max(values)}
    return {name: round(float(value), 4) for name, value in named.items()}
