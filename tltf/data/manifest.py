"""Record and Manifest: what a run is made of, before anything is decoded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tltf.errors import DataError

SPLITS = ("train", "val", "test")

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What people call their splits, in lower case."""

SKIP = "go on without them by --bad_files=skip"
"""What every error says that this flag would solve."""

INDEX = "index.json"
"""In a folder that ``tltf index`` has finished; see :mod:`tltf.data.columns`."""

Label = str | tuple[str, ...] | float
"""A class name (single_label), a tuple of class names (multi_label), a number (regression)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One example before decoding.

    Args:
      id: how a person names it: the path relative to the data, or ``file.csv:12``; unique.
      path: absolute path of the image file, or None for a text.
      text: the text itself, or None for an image.
      label: see :data:`Label`; None when unknown (prediction).
      group: examples of one group never stand in two splits; None for no group.
      split: ``train``, ``val``, ``test``, or None until it is carved.
      slice: part of the data that the report measures by itself; None for no slice.
      weight: multiplies the loss of this example, >= 0.
      sha256: hex digest of the file's bytes (or of the UTF-8 text), "" until scanned.
      alike: the same for records that look alike (:mod:`tltf.data.duplicates`), which are not
        carved into two splits or folds; None for one that looks like no other.
    """

    id: str
    path: str | None = None
    text: str | None = None
    label: Label | None = None
    group: str | None = None
    slice: str | None = None
    split: str | None = None
    weight: float = 1.0
    sha256: str = ""
    alike: str | None = None


def groups_of(records: Iterable[Record]) -> list[str | None]:
    """The group of each record: what intervals and verdicts take for independent."""
    return [record.group for record in records]


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A file or row that was found and is not used: ``outcome`` is ``bad`` or ``ignored``."""

    id: str
    outcome: str
    reason: str


class BadInputsError(DataError):
    """Files or rows cannot be used; ``excluded`` lists all of them, the message the first few."""

    def __init__(
        self,
        what: str,
        *,
        excluded: Iterable[Excluded],
        where: object = "",
        kept: object = "",
        next_action: str = "",
    ) -> None:
        super().__init__(what, where=where, kept=kept, next_action=next_action)
        self.excluded = tuple(excluded)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The Records of a run, its task and classes, and what was excluded and why.

    ``classes`` is sorted and fixes the order of logits; empty for regression.
    ``notes`` are sentences for the person: what was carved, how many files carry EXIF turns.
    """

    task: str
    classes: tuple[str, ...]
    records: Sequence[Record]
    excluded: tuple[Excluded, ...] = ()
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Sequence[Record]:
        """The records of one split, in the manifest's order."""
        return tuple(record for record in self.records if record.split == name)

    def counts(self) -> dict[str, Counter[str]]:
        """``counts()[split][class]``; a multi-label record counts for each of its labels."""
        table: dict[str, Counter[str]] = {}
        for record in self.records:
            row = table.setdefault(record.split or "", Counter())
            row.update(class_names(record.label))
        return table

    def sizes(self) -> dict[str, int]:
        """Split -> records; those without a split are under the empty name."""
        return dict(Counter(record.split or "" for record in self.records))

    def digest(self) -> str:
        """SHA-256 over contents, labels, splits, groups, weights and order."""
        state = hashlib.sha256(repr((self.task, self.classes)).encode("utf-8", "surrogatepass"))
        for r in self.records:
            row = repr((r.id, r.label, r.group, r.split, r.weight, r.sha256))
            state.update(row.encode("utf-8", "surrogatepass"))
        return state.hexdigest()

    def to_json_lines(self) -> Iterator[str]:
        """A header line, then one line per record and per exclusion."""
        yield _line({"task": self.task, "classes": self.classes, "notes": self.notes})
        for record in self.records:
            yield _line(dataclasses.asdict(record))
        for excluded in self.excluded:
            yield _line({"excluded": dataclasses.asdict(excluded)})

    @classmethod
    def from_json_lines(cls, lines: Iterable[str]) -> Manifest:
        """Reads what :meth:`to_json_lines` wrote."""
        rows = [json.loads(line) for line in lines]
        header = rows[0]
        records, excluded = [], []
        for row in rows[1:]:
            if "excluded" in row:
                excluded.append(Excluded(**row["excluded"]))
            else:
                if isinstance(row["label"], list):
                    row["label"] = tuple(row["label"])
                records.append(Record(**row))
        return cls(
            task=header["task"],
            classes=tuple(header["classes"]),
            records=tuple(records),
            excluded=tuple(excluded),
            notes=tuple(header["notes"]),
        )


def is_index(source: str | Path) -> bool:
    """Whether a folder holds a manifest as columns."""
    return (Path(source) / INDEX).is_file()


def class_names(label: Label | None) -> tuple[str, ...]:
    """The class names of a label; none for a number.

    >>> class_names("cat"), class_names(("red", "round")), class_names(0.5)
    (('cat',), ('red', 'round'), ())
    """
    if isinstance(label, tuple):
        return label
    return (label,) if isinstance(label, str) else ()


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=True) + "\n"
