"""Records as columns on disk: a manifest of more rows than memory should hold, opened at once.

``tltf index`` writes such a folder once (:mod:`tltf.data.indexing`): a folder for each split with
one file for each column, and ``index.json``, which is written last and knows everything that would
otherwise be counted. A row costs 56 bytes and its path. What is mapped into memory are pages of
files, which the operating system takes back when it wants them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from tltf import storage
from tltf.data.manifest import INDEX, SPLITS, Manifest, Record
from tltf.errors import StorageError

FORMAT = 1
AT_ONCE = 65_536
"""Rows that are read in one piece."""

COLUMNS: Mapping[str, np.dtype[Any]] = {
    "sha256": np.dtype("V32"),
    "label": np.dtype("<i4"),
    "weight": np.dtype("<f4"),
    "line": np.dtype("<u8"),
    "end": np.dtype("<u8"),  # where the row's path ends in PATHS
}
PATHS = "paths"


class Rows(Sequence[Record]):
    """The records of one split, made when they are asked for.

    Args:
      folder: of the columns.
      length: how many rows there are.
      table: name and folder of the table that was indexed: ``photos.csv``, ``/data``.
      classes: names in the order of the column ``label``.
      split: of :data:`~tltf.data.manifest.SPLITS`.
    """

    def __init__(
        self, folder: Path, length: int, *, table: tuple[str, str], classes: Sequence[str],
        split: str,
    ) -> None:  # fmt: skip
        self.folder, self.length, self.table = folder, length, table
        self.classes, self.split = tuple(classes), split

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, place: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(self.length)))
        i = place + self.length if place < 0 else place
        if not 0 <= i < self.length:
            raise IndexError(place)
        [record] = self._piece(i, i + 1)
        return record

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, self.length, AT_ONCE):
            yield from self._piece(start, min(self.length, start + AT_ONCE))

    def column(self, name: str) -> np.ndarray:
        """A column of :data:`COLUMNS`, mapped and not read."""
        return _mapped(self.folder / name, COLUMNS[name], self.length)

    def labels(self) -> np.ndarray:
        """int32 ``[n]``: places in ``classes``."""
        return np.array(self.column("label"), np.int32)

    def weights(self) -> np.ndarray:
        """float32 ``[n]``."""
        return np.array(self.column("weight"), np.float32)

    def keys(self) -> np.ndarray:
        """int32 ``[n]`` from the content, that augmentation is seeded with."""
        found = np.empty(self.length, np.int32)
        for start in range(0, self.length, AT_ONCE):
            piece = self.column("sha256")[start : start + AT_ONCE]
            heads = np.ascontiguousarray(piece).view(np.uint8).reshape(-1, 32)[:, :4]
            found[start : start + AT_ONCE] = np.ascontiguousarray(heads).view(">i4")[:, 0]
        return found

    def path_reader(self) -> Callable[[int], bytes]:
        """From a row's number to its absolute path."""
        ends, paths = self.column("end"), self._paths
        root = os.fsencode(self.table[1])

        def path(i: int) -> bytes:
            start = int(ends[i - 1]) if i else 0
            return os.path.join(root, paths[start : int(ends[i])].tobytes())  # noqa: PTH118

        return path

    @cached_property
    def _paths(self) -> np.ndarray:
        file = self.folder / PATHS
        return _mapped(file, np.dtype(np.uint8), file.stat().st_size if self.length else 0)

    def _piece(self, start: int, stop: int) -> Iterator[Record]:
        name, root = self.table
        at = {column: self.column(column)[start:stop] for column in COLUMNS}
        begin = int(self.column("end")[start - 1]) if start else 0
        ends = at["end"].tolist()
        data = self._paths[begin : ends[-1]].tobytes()
        rows = zip(at["sha256"].tolist(), at["label"].tolist(), at["weight"].tolist(),
                   at["line"].tolist(), ends, strict=True)  # fmt: skip
        place = begin
        for sha256, label, weight, line, end in rows:
            path = os.fsdecode(data[place - begin : end - begin])
            place = end
            yield Record(
                id=f"{name}:{line}",
                path=os.path.join(root, path),  # noqa: PTH118 - ten times as fast
                label=self.classes[label],
                split=self.split,
                weight=weight,
                sha256=bytes(sha256).hex(),
            )


class Joined(Sequence[Record]):
    """Several sequences of records as one."""

    def __init__(self, parts: Sequence[Sequence[Record]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, place: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(len(self))))
        i = place + len(self) if place < 0 else place
        for part in self.parts:
            if 0 <= i < len(part):
                return part[i]
            i -= len(part)
        raise IndexError(place)

    def __iter__(self) -> Iterator[Record]:
        for part in self.parts:
            yield from part


@dataclass(frozen=True, kw_only=True)
class IndexedManifest(Manifest):
    """A manifest whose records stay on disk.

    Args:
      folder: of the index.
      parts: split -> its records.
      table: split -> class -> how many.
      fingerprint: of all columns.
    """

    folder: str
    parts: Mapping[str, Rows]
    table: Mapping[str, Mapping[str, int]]
    fingerprint: str

    def split(self, name: str) -> Sequence[Record]:
        return self.parts[name]

    def counts(self) -> dict[str, Counter[str]]:
        return {name: Counter(row) for name, row in self.table.items() if row}

    def sizes(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.parts.items() if len(rows)}

    def digest(self) -> str:
        return self.fingerprint

    def to_json_lines(self) -> Iterator[str]:
        """One line that says where the index is."""
        short = dataclasses.replace(self, records=())
        [line] = Manifest.to_json_lines(short)
        where = {"index": self.folder, "digest": self.fingerprint}
        yield json.dumps(where)[:-1] + ", " + line[1:]


def opened(folder: Path) -> IndexedManifest:
    """The manifest of a finished index; nothing of its columns is read.

    Raises:
      InputMissingError: there is none.
      StorageError: it is damaged, or of another version.
    """
    header = storage.read_sealed(folder / INDEX)
    if header.get("format") != FORMAT:
        raise StorageError(
            f"an index of format {header.get('format')}, expected {FORMAT}",
            where=folder,
            next_action="index the table again with this version",
        )
    parts = {
        name: Rows(folder / name, header["sizes"][name], table=tuple(header["table"]),
                   classes=header["classes"], split=name)
        for name in SPLITS
    }  # fmt: skip
    for rows in parts.values():
        _check_sizes(rows)
    return IndexedManifest(
        task="single_label",
        classes=tuple(header["classes"]),
        records=Joined(list(parts.values())),
        notes=tuple(header["notes"]),
        folder=str(folder.absolute()),
        parts=parts,
        table=header["counts"],
        fingerprint=header["digest"],
    )


def _check_sizes(rows: Rows) -> None:
    for name, kind in COLUMNS.items():
        file = rows.folder / name
        size = file.stat().st_size if file.exists() else 0
        if size != kind.itemsize * rows.length:
            raise storage.damaged(file, f"{size} bytes, expected {kind.itemsize * rows.length}")


def _mapped(file: Path, kind: np.dtype[Any], length: int) -> np.ndarray:
    if not length:
        return np.zeros(0, kind)  # an empty file cannot be mapped
    return np.memmap(file, kind, "r", shape=(length,))
