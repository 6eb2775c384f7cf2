"""Features as files that other programs read: TFRecord, Parquet, ArrayRecord."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.data.manifest import Record
from tltf.errors import ArgumentError

FORMS = ("tfrecord", "parquet", "arrayrecord")
NEEDS = {"parquet": "pyarrow", "arrayrecord": "array_record"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records and their features float32 ``[n, D]``."""

    records: tuple[Record, ...]
    features: np.ndarray


def check_form(form: str) -> None:
    """Raises ArgumentError when the package that writes ``form`` is not installed."""
    needed = NEEDS.get(form)
    if needed and importlib.util.find_spec(needed) is None:
        raise ArgumentError(
            f"{needed} is not installed", where=f"--format={form}",
            next_action=f"pip install {needed.replace('_', '-')}, or use --format=tfrecord",
        )  # fmt: skip


def write(path: Path, form: str, parts: Sequence[Part]) -> None:
    """One file with ``id``, ``sha256`` and ``features`` of every record, whole or not at all."""
    temporary = storage.sibling(path)
    try:
        {"tfrecord": _tfrecord, "parquet": _parquet, "arrayrecord": _arrayrecord}[form](
            temporary, parts
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(parts: Sequence[Part]) -> Iterator[tuple[Record, np.ndarray]]:
    for part in parts:
        yield from zip(part.records, part.features, strict=True)


def _example(record: Record, row: np.ndarray) -> bytes:
    def text(value: str) -> tf.train.Feature:
        encoded = value.encode("utf-8", "surrogatepass")
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))

    fields = {
        "id": text(record.id),
        "sha256": text(record.sha256),
        "features": tf.train.Feature(float_list=tf.train.FloatList(value=row)),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=fields)).SerializeToString())


def _tfrecord(path: Path, parts: Sequence[Part]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record, row in _rows(parts):
            writer.write(_example(record, row))


def _arrayrecord(path: Path, parts: Sequence[Part]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record, row in _rows(parts):
        writer.write(_example(record, row))
    writer.close()


def _parquet(path: Path, parts: Sequence[Part]) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = list(_rows(parts))
    width = rows[0][1].size if rows else 0
    flat = np.concatenate([row for _, row in rows]) if rows else np.zeros(0, np.float32)
    table = pyarrow.table(
        {
            "id": [record.id for record, _ in rows],
            "sha256": [record.sha256 for record, _ in rows],
            "features": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), width or 1),
        }
    )
    parquet.write_table(table, path)
