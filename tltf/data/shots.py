"""A few labelled examples of each class, taken out of data that is otherwise measured on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from tltf.data.manifest import Record, class_names
from tltf.errors import DataError, named_list

SHOTS = "shots"
"""Their split: they are learned from, and no number counts them."""


def with_shots(
    records: Sequence[Record], shots: int, *, seed: int, where: object
) -> tuple[Record, ...]:
    """The records, ``shots`` of each class in the split :data:`SHOTS`.

    Which ones follows from the seed and the contents, not from the order. Copies of one that is
    taken go with it, or the number would be measured on what was learned.

    Args:
      records: scanned, of single labels.
      shots: of each class, at least 1.
      seed: of the choice.
      where: what the data is called, for errors.

    Raises:
      DataError: no labels, or a class that would have no example left.
    """
    classes: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        for name in class_names(record.label):
            classes.setdefault(name, {}).setdefault(_content(record), []).append(record)
    if not classes:
        raise DataError(
            f"--shots={shots} takes labelled examples, and there are no labels",
            where=where,
            next_action="put the images into class folders, or leave --shots out",
        )
    short = {name: len(found) for name, found in classes.items() if len(found) <= shots}
    if short:
        counts = named_list(f"{name} has {n}" for name, n in sorted(short.items()))
        raise DataError(
            f"--shots={shots} would leave no example of some classes to measure: {counts}",
            where=where,
            next_action=f"use --shots={max(1, min(short.values()) - 1)}, or more examples",
        )
    taken = {
        record.id
        for found in classes.values()
        for content in sorted(found, key=lambda content: _lot(content, seed))[:shots]
        for record in found[content]
    }
    return tuple(
        dataclasses.replace(record, split=SHOTS) if record.id in taken else record
        for record in records
    )


def _content(record: Record) -> str:
    return record.sha256 or record.id


def _lot(content: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{SHOTS}/{content}".encode("utf-8", "surrogatepass")).hexdigest()
