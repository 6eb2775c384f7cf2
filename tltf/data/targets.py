"""Labels of records as the arrays that a loss takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tltf.data.manifest import Record, class_names
from tltf.errors import DataError, named_list, nearest


def label_array(records: Sequence[Record], *, classes: Sequence[str], task: str) -> np.ndarray:
    """int32 ``[n]`` class numbers (single_label), else float32 ``[n, C]`` or ``[n, 1]``."""
    missing = [record.id for record in records if record.label is None]
    if 0 < len(missing) < len(records):
        raise DataError(
            f"{len(missing)} of {len(records)} records have no label: {named_list(missing)}",
            where="labels",
            next_action="give every record a label, or none",
        )
    if task == "regression":
        values = [0.0 if missing else _number(record) for record in records]
        return np.array(values, np.float32)[:, None]
    columns = {name: i for i, name in enumerate(classes)}
    if task == "single_label":
        ids = [-1 if missing else _column(r, r.label, columns) for r in records]
        return np.array(ids, np.int32)
    hot = np.zeros((len(records), len(classes)), np.float32)
    for i, record in enumerate(records):
        for name in class_names(record.label):
            hot[i, _column(record, name, columns)] = 1.0
    return hot


def weight_factor(record: Record, weights: Mapping[str, float]) -> float:
    """The class weight of a record; of several labels their mean."""
    own = [weights.get(name, 1.0) for name in class_names(record.label)]
    return sum(own) / len(own) if own else 1.0


def _column(record: Record, name: object, columns: Mapping[str, int]) -> int:
    if not isinstance(name, str) or name not in columns:
        raise DataError(
            f"label {name!r} is none of the classes {named_list(columns)}"
            f"{nearest(str(name), columns)}",
            where=record.id,
        )
    return columns[name]


def _number(record: Record) -> float:
    if not isinstance(record.label, int | float):
        raise DataError(f"label {record.label!r}, expected a number", where=record.id)
    return float(record.label)
