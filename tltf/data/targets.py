"""Labels of records as the arrays that a loss takes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tltf.data.columns import Rows
from tltf.data.manifest import Record, class_names
from tltf.errors import ArgumentError, DataError, named_list, nearest


def label_array(records: Sequence[Record], *, classes: Sequence[str], task: str) -> np.ndarray:
    """int32 ``[n]`` class numbers (single_label), else float32 ``[n, C]`` or ``[n, 1]``."""
    if isinstance(records, Rows):
        return _indexed_labels(records, classes)
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


def _indexed_labels(rows: Rows, classes: Sequence[str]) -> np.ndarray:
    """The column as it is, or with the places that the names have in other classes."""
    if rows.classes == tuple(classes):
        return rows.labels()
    columns = {name: i for i, name in enumerate(classes)}
    places = [_column(rows[0], name, columns) for name in rows.classes] if rows.length else []
    return np.array(places, np.int32)[rows.labels()]


def weight_array(records: Sequence[Record]) -> np.ndarray:
    """float32 ``[n]``: the records' own weights."""
    if isinstance(records, Rows):
        return records.weights()
    return np.array([record.weight for record in records], np.float32)


def factor_array(records: Sequence[Record], weights: Mapping[str, float]) -> np.ndarray:
    """float32 ``[n]``: :func:`weight_factor` of each."""
    if isinstance(records, Rows):
        factors = [weights.get(name, 1.0) for name in records.classes]
        return np.array(factors, np.float32)[records.labels()]
    return np.array([weight_factor(record, weights) for record in records], np.float32)


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


def class_weights(
    records: Sequence[Record], *, classes: Sequence[str], mode: str | Mapping[str, float]
) -> dict[str, float]:
    """The weight of every class in the loss.

    Args:
      records: the training records.
      classes: all class names.
      mode: ``none`` (1 each), ``auto`` (``n / (k n_c)`` for k classes, n labels, n_c of class c;
        1 for a class without examples), or a mapping, as object or JSON; what it leaves out is 1.

    Raises:
      ArgumentError: the mapping names an unknown class, or there are no classes to weight.

    Example::

      class_weights(records, classes=("cat", "dog"), mode='{"dog": 2.0}')
    """
    if mode == "none":
        return dict.fromkeys(classes, 1.0)
    if not classes:
        raise ArgumentError(
            "class weights for a regression, which has no classes",
            where="--class_weight",
            next_action="use --class_weight=none, or a weight column",
        )
    if mode == "auto":
        counts = Counter(name for record in records for name in class_names(record.label))
        fair = sum(counts.values()) / len(classes)
        return {name: fair / counts[name] if counts[name] else 1.0 for name in classes}
    given = json.loads(mode) if isinstance(mode, str) else dict(mode)
    for name in given:
        if name not in classes:
            raise ArgumentError(
                f"a weight for the unknown class {name!r}{nearest(name, classes)}",
                where="--class_weight",
                next_action=f"the classes are {named_list(classes)}",
            )
    return {name: float(given.get(name, 1.0)) for name in classes}
