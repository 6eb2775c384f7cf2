"""Makes the index of a large table of images (:mod:`tltf.data.columns`), in bounded memory.

Rows are read, scanned and appended to columns piece by piece; after each piece the position is
noted, so that the same call goes on where it was stopped. The split of a row follows from the
seed and its content (or its group) alone: u = SHA-256(seed:content) / 2^256 is test below
``test_fraction``, val below the sum of both, else train. So copies and groups stay together
without a table of them, and with n rows a share f is met to sqrt(f (1 - f) / n).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from tltf import storage
from tltf.data import scan
from tltf.data.columns import AT_ONCE, COLUMNS, FORMAT, PATHS, IndexedManifest, opened
from tltf.data.label_remarks import remarks
from tltf.data.labels import understand
from tltf.data.manifest import INDEX, SPLITS, BadInputsError, Excluded, Manifest, Record
from tltf.data.rowstream import RowStream, Values
from tltf.data.splitting import divided
from tltf.data.tables import columns_of, raw_label, record_of
from tltf.errors import ArgumentError, DataError, MismatchError, TltfError, named_list

PROGRESS = "progress.json"
ROWS = "rows"
BAD = "bad_inputs.jsonl"
RAW: Mapping[str, np.dtype[Any]] = {
    **COLUMNS,
    "named": np.dtype("u1"),  # 0 for no split, else its place in SPLITS + 1
    "draw": np.dtype("<u8"),
}
MOST_CLASSES = 100_000
KNOWN_FILES = 200_000

Progress = Callable[[int, int], None]
_Read = tuple[int, Record, str]
"""A line, its record without a label, and the label as it was written."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the index depends on beside the table.

    Args:
      seed: of the split.
      val_fraction, test_fraction: shares to carve where the table names no such split.
      group_column: rows that are equal in it stay in one split.
      encoding: of the table.
      max_image_pixels: larger images are bad.
      bad_files: ``error`` or ``skip``, with at most ``max_bad_fraction`` of bad ones.
    """

    seed: int = 0
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    group_column: str | None = None
    encoding: str = "auto"
    max_image_pixels: int = 64_000_000
    bad_files: str = "error"
    max_bad_fraction: float = 0.01


@dataclass
class _Place:
    """How far the columns go."""

    read: int = 0
    rows: int = 0
    path_bytes: int = 0
    bad: int = 0
    bad_bytes: int = 0
    suspect: int = 0
    classes: list[str] = field(default_factory=list)


def build(
    file: Path, out: Path, settings: Settings, *, progress: Progress | None = None
) -> IndexedManifest:
    """Indexes a table, or goes on with it, or opens what is finished.

    Args:
      file: ``.csv``, ``.tsv`` or ``.jsonl`` with the columns ``path`` and ``label``; single labels.
      out: folder of the index.
      settings: of scan and split.
      progress: called with rows done and rows expected.

    Raises:
      ArgumentError: texts, or labels that are no single classes.
      BadInputsError: bad rows or files, as ``bad_files`` says; all are in ``bad_inputs.jsonl``.
      DataError: no rows, too many classes, an empty split.
      MismatchError: ``out`` was begun with another table or other settings.
      StorageError: the disk refused.

    Example::

      manifest = build(Path("photos.csv"), Path("photos.index"), Settings())
      len(manifest.split("train"))
    """
    about = _described(file, settings)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (INDEX, PROGRESS):
            if (out / name).exists():
                _check_same(storage.read_sealed(out / name)["about"], about, out)
        if (out / INDEX).exists():
            return opened(out)
        with _Writer(out, about) as writer:
            _append_all(writer, file, settings, progress)
            place = writer.place
        _finish(out, file, settings, place, about)
        return opened(out)
    except TltfError:
        raise
    except OSError as error:
        raise storage.storage_error(error, out) from error


def _described(file: Path, settings: Settings) -> dict[str, Any]:
    status = file.stat()
    return {"format": FORMAT, "table": str(file.absolute()), "bytes": status.st_size,
            "changed": status.st_mtime_ns, **asdict(settings)}  # fmt: skip


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    changed = [f"{k}: {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
    if changed:
        raise MismatchError(
            f"the index was begun with another table or settings: {named_list(changed, most=3)}",
            where=out,
            kept="what is in it",
            next_action="use the same ones, or another --out",
        )


class _Writer:
    """Appends pieces to the raw columns; what was not noted is cut off when it is opened."""

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        self.out, self.about = out, about
        self.folder = out / ROWS

    def __enter__(self) -> _Writer:
        if (self.out / PROGRESS).exists():
            fields = storage.read_sealed(self.out / PROGRESS)
            self.place = _Place(**fields["place"])
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.place = _Place()
        self.folder.mkdir(exist_ok=True)
        self.codes = {name: i for i, name in enumerate(self.place.classes)}
        self.files = {name: self._at(self.folder / name, self.place.rows * kind.itemsize)
                      for name, kind in RAW.items()}  # fmt: skip
        self.paths = self._at(self.folder / PATHS, self.place.path_bytes)
        self.bad = self._at(self.out / BAD, self.place.bad_bytes)
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self.files.values(), self.paths, self.bad):
            file.close()

    def append(self, rows: list[_Row], bad: list[Excluded], *, read: int, suspect: int) -> None:
        """One piece, durable before it is noted."""
        place = self.place
        paths = [row.path for row in rows]
        ends = place.path_bytes + np.cumsum([len(path) for path in paths], dtype=np.uint64)
        for row in rows:
            self.codes.setdefault(row.label, len(self.codes))
        if len(self.codes) > MOST_CLASSES:
            raise DataError(
                f"more than {MOST_CLASSES} different labels, such as {named_list(self.codes)}",
                where=self.about["table"],
                next_action="an index holds classes; are these numbers or texts?",
            )
        columns = {
            "sha256": np.frombuffer(b"".join(row.sha256 for row in rows), RAW["sha256"]),
            "label": [self.codes[row.label] for row in rows],
            "weight": [row.weight for row in rows],
            "line": [row.line for row in rows],
            "end": ends,
            "named": [row.named for row in rows],
            "draw": [row.draw for row in rows],
        }
        for name, values in columns.items():
            self.files[name].write(np.asarray(values, RAW[name]).tobytes())
        self.paths.write(b"".join(paths))
        lines = "".join(json.dumps(asdict(x)) + "\n" for x in bad).encode()
        self.bad.write(lines)
        for file in (*self.files.values(), self.paths, self.bad):
            file.flush()
            os.fsync(file.fileno())
        place.read, place.rows = read, place.rows + len(rows)
        place.path_bytes += sum(map(len, paths))
        place.bad, place.bad_bytes = place.bad + len(bad), place.bad_bytes + len(lines)
        place.suspect, place.classes = place.suspect + suspect, list(self.codes)
        fields = {"about": self.about, "place": asdict(place)}
        storage.write_sealed(self.out / PROGRESS, fields)

    def _at(self, file: Path, size: int) -> IO[bytes]:
        handle = file.open("ab")
        handle.truncate(size)
        return handle


class _Row(NamedTuple):
    path: bytes
    sha256: bytes
    label: str
    weight: float
    line: int
    named: int
    draw: int


def _append_all(writer: _Writer, file: Path, settings: Settings, progress: Progress | None) -> None:
    stream = RowStream(file, encoding=settings.encoding)
    roles = columns_of(stream.header, file, settings.group_column)
    if "path" not in roles:
        raise ArgumentError(
            "a table of texts; an index holds images",
            where="--data",
            next_action="train on the table as it is",
        )
    rows = iter(stream)
    done = sum(1 for _ in islice(rows, writer.place.read))
    known: dict[str, scan.Finding] = {}
    while piece := list(islice(rows, AT_ONCE)):
        read, bad = _understood(piece, roles, file)
        findings = _scanned(read, known, settings)
        good, worse = _rows(read, findings, settings, file)
        done += len(piece)
        suspect = sum(bool(found.suspect) and not found.reason for found in findings)
        writer.append(good, bad + worse, read=done, suspect=suspect)
        if progress is not None:
            progress(done, stream.expected(done))


def _understood(
    piece: Iterable[tuple[int, Values | str]], roles: Mapping[str, str], file: Path
) -> tuple[list[_Read], list[Excluded]]:
    """The rows with their records, and those that are none."""
    found, bad = [], []
    name, folder, column = file.name, str(file.parent), roles["label"]
    for line, values in piece:
        try:
            if isinstance(values, str):
                raise ValueError(values)
            record = record_of(line, values, roles, name, folder)
            label = raw_label(values.get(column))
            if isinstance(label, tuple) or not str(label).strip():
                raise ValueError("empty label" if label == "" else f"several labels: {label}")
        except ValueError as error:
            bad.append(Excluded(id=f"{name}:{line}", outcome="bad", reason=str(error)))
        else:
            found.append((line, record, str(label)))
    return found, bad


def _scanned(
    read: list[_Read], known: dict[str, scan.Finding], settings: Settings
) -> list[scan.Finding]:
    """A finding for each; a file that is named again is not looked at again."""
    if len(known) > KNOWN_FILES:
        known.clear()
    new = {str(record.path): record for _, record, _ in read if record.path not in known}
    some = Manifest(task="single_label", classes=(), records=tuple(new.values()))
    found = scan.examine(some, max_image_pixels=settings.max_image_pixels).findings
    known |= {path: found[record.id] for path, record in new.items()}
    return [known[str(record.path)] for _, record, _ in read]


def _rows(
    read: list[_Read], findings: list[scan.Finding], settings: Settings, file: Path
) -> tuple[list[_Row], list[Excluded]]:
    good, bad = [], []
    root = os.fsencode(str(file.parent)) + b"/"
    for (line, record, label), found in zip(read, findings, strict=True):
        if found.reason:
            name = f"{record.id} {record.path}"
            bad.append(Excluded(id=name, outcome="bad", reason=found.reason))
            continue
        tie = f"group {record.group}" if record.group is not None else found.sha256
        digest = hashlib.sha256(f"{settings.seed}:{tie}".encode("utf-8", "surrogatepass")).digest()
        good.append(
            _Row(
                path=os.fsencode(str(record.path)).removeprefix(root),
                sha256=bytes.fromhex(found.sha256),
                label=label,
                weight=record.weight,
                line=line,
                named=SPLITS.index(record.split) + 1 if record.split else 0,
                draw=int.from_bytes(digest[:8], "big"),
            )
        )
    return good, bad


def _finish(
    out: Path, file: Path, settings: Settings, place: _Place, about: Mapping[str, Any]
) -> None:
    """From the raw columns to those of each split; the header comes last."""
    _check_bad(out, file, settings, place)
    if not place.rows:
        raise DataError("no rows", where=file, next_action="add examples")
    task, classes, _ = understand(place.classes, place.classes, task="auto", where=str(file))
    if task != "single_label":
        raise ArgumentError(
            f"the labels are {task}, an index holds single labels",
            where=str(file),
            next_action="train on the table as it is",
        )
    order = {name: i for i, name in enumerate(classes)}
    codes = np.array([order[name] for name in place.classes], np.int32)
    found = divided(out / ROWS, RAW, out, rows=place.rows, codes=codes, classes=classes,
                    fractions={"val": settings.val_fraction, "test": settings.test_fraction},
                    where=str(file))  # fmt: skip
    totals: Counter[str] = Counter()
    for row in found.counts.values():
        totals.update(row)
    notes = [
        *remarks(totals, task=task, asked=task, separator=None),
        f"index of {file.name}: {found.carved}",
        *found.notes,
    ]
    if place.bad:
        notes.append(f"skipped {place.bad} bad rows or files, named in {out / BAD}")
    if place.suspect:
        notes.append(f"the decoder complained about {place.suspect} images that it decoded")
    fields = {
        "format": FORMAT,
        "about": about,
        "table": [file.name, str(file.absolute().parent)],
        "classes": classes,
        "sizes": found.sizes,
        "counts": found.counts,
        "notes": notes,
        "digest": _digest(out, classes),
    }
    storage.write_sealed(out / INDEX, fields)
    shutil.rmtree(out / ROWS, ignore_errors=True)
    with contextlib.suppress(OSError):
        (out / PROGRESS).unlink()


def _check_bad(out: Path, file: Path, settings: Settings, place: _Place) -> None:
    found = place.rows + place.bad
    allowed = settings.max_bad_fraction * found if settings.bad_files == "skip" else 0
    if place.bad <= allowed:
        return
    with (out / BAD).open() as lines:
        some = [Excluded(**json.loads(line)) for line in islice(lines, 1000)]
    limit = "" if settings.bad_files != "skip" else (
        f", more than max_bad_fraction {settings.max_bad_fraction:g}")  # fmt: skip
    raise BadInputsError(
        f"{place.bad} of {found} inputs are bad{limit}: "
        + named_list(f"{x.id} ({x.reason})" for x in some),
        excluded=some,
        where=file,
        kept=f"the list in {out / BAD}",
        next_action="repair or remove them, or go on without them by --bad_files=skip and another"
        " --out",
    )


def _digest(out: Path, classes: Iterable[str]) -> str:
    state = hashlib.sha256(repr(tuple(classes)).encode("utf-8", "surrogatepass"))
    for piece in _pieces(out / split / name for split in SPLITS for name in (*COLUMNS, PATHS)):
        state.update(piece)
    return state.hexdigest()


def _pieces(files: Iterable[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece
