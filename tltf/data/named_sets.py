"""Data that is named instead of lying in a folder: ``digits`` and ``tfds:<name>``.

Both are written once as ordinary image files below the cache folder, so that everything after
this line knows one kind of example only: a file and its Record.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tltf.data.cachefolder import cache_folder, made_once
from tltf.data.headers import kind_of
from tltf.data.labels import check_classes
from tltf.data.manifest import Excluded, Manifest, Record
from tltf.errors import ArgumentError, DataError, DownloadError, named_list

PREFIXES = ("digits:", "tfds:")
_TFDS_NAME = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_.\-]+)?(:(\d+|\*)(\.(\d+|\*)){0,2})?")
_TFDS_SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


def load_digits(source: str) -> Manifest:
    """The 1797 real handwritten digits of scikit-learn, 8x8 pixels, as grey PNG files.

    Args:
      source: ``digits`` for all, ``digits:0-4`` or ``digits:1,3,7-9`` for some of the classes.

    Raises:
      ArgumentError: the selection is no list of digits, or names fewer than two.

    Example::

      load_digits("digits:5-9").classes  # ("5", "6", "7", "8", "9")
    """
    _, _, selection = source.partition(":")
    wanted = _selected(selection) if selection or source != "digits" else set("0123456789")
    folder = cache_folder() / "digits" / "1"
    rows = made_once(folder, _write_digits)
    records = tuple(
        Record(id=f"digits/{row['file']}", path=str(folder / row["file"]), label=row["label"])
        for row in rows
        if row["label"] in wanted
    )
    return Manifest(task="single_label", classes=tuple(sorted(wanted)), records=records)


def load_tfds(source: str) -> Manifest:
    """An image classification set of TensorFlow Datasets.

    Args:
      source: ``tfds:<name>[/config][:version]``. It is read from ``$TFDS_DATA_DIR`` (or the
        library's default folder) and downloaded only when it is not prepared there.

    Raises:
      ArgumentError: the name has another form.
      DownloadError: it is neither prepared nor to be had.
      DataError: it has no image with a class label, or fewer examples than it says.

    Example::

      load_tfds("tfds:beans").split("train")
    """
    name = source.removeprefix("tfds:")
    if not _TFDS_NAME.fullmatch(name):
        raise ArgumentError(
            f"data={source!r}, expected tfds:<name>[/config][:version]",
            where="--data",
            next_action="for example --data=tfds:beans",
        )
    builder = _prepared_builder(name)
    image, label = _image_and_label(builder, name)
    names = list(builder.info.features[label].names)
    folder = cache_folder().joinpath("tfds", *builder.info.full_name.split("/"))
    rows = made_once(folder, lambda place: _write_tfds(builder, place, image, label))
    records, excluded = [], []
    for row in rows:
        if row["label"] < 0:
            excluded.append(Excluded(id=row["id"], outcome="ignored", reason="no label"))
            continue
        records.append(
            Record(
                id=row["id"],
                path=str(folder / row["file"]),
                label=names[row["label"]],
                split=_TFDS_SPLITS[row["split"]],
            )
        )
    left_out = [split for split in builder.info.splits if split not in _TFDS_SPLITS]
    return Manifest(
        task="single_label",
        classes=check_classes(names, fewest=2, where=source),
        records=tuple(records),
        excluded=tuple(excluded),
        notes=(f"splits left out: {named_list(left_out)}",) if left_out else (),
    )


def _selected(selection: str) -> set[str]:
    wanted: set[str] = set()
    for part in selection.split(","):
        match = re.fullmatch(r"([0-9])(?:-([0-9]))?", part.strip())
        if match is None:
            wanted.clear()
            break
        low, high = int(match[1]), int(match[2] or match[1])
        wanted.update(str(digit) for digit in range(low, high + 1))
    if len(wanted) < 2:
        raise ArgumentError(
            f"data='digits:{selection}', expected at least two digits",
            where="--data",
            next_action="for example --data=digits:0-4",
        )
    return wanted


def _write_digits(folder: Path) -> list[dict[str, Any]]:
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    rows = []
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        # Values are 0..16; the files are ordinary 8-bit ones.
        pixels = np.floor(image * 255.0 / 16.0 + 0.5).astype(np.uint8)
        name = f"{i:04d}.png"
        (folder / name).write_bytes(_grey_png(pixels))
        rows.append({"file": name, "label": str(label)})
    return rows


def _grey_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 ``[H, W]``; not compressed, so its bytes are the same on every machine."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _prepared_builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    data_dir = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            # It reports its progress on stdout, where only results belong.
            with contextlib.redirect_stdout(sys.stderr):
                builder.download_and_prepare()
    # Anything can go wrong in the code of thousands of data sets, and the answer is the same.
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise DownloadError(
            f"the TFDS data set {name!r} is not on this machine and cannot be fetched: {reason}",
            where=data_dir or tfds.core.constants.DATA_DIR,
            next_action="check the name, or prepare it elsewhere and set TFDS_DATA_DIR",
        ) from error
    return builder


def _image_and_label(builder: Any, name: str) -> tuple[str, str]:
    """The names of the image and the class label among the features."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    image = "image" if "image" in images else images[0] if len(images) == 1 else None
    label = "label" if "label" in labels else labels[0] if len(labels) == 1 else None
    if image is None or label is None:
        raise DataError(
            f"the TFDS data set {name!r} has no image with a class label; its features are"
            f" {named_list(features)}",
            where="--data",
            next_action="export it to a folder or a CSV file yourself",
        )
    return image, label


def _write_tfds(builder: Any, folder: Path, image: str, label: str) -> list[dict[str, Any]]:
    """Writes the encoded bytes as they are; decoding is the business of the shared decoder."""
    import tensorflow_datasets as tfds

    rows = []
    for split in sorted(set(builder.info.splits) & set(_TFDS_SPLITS)):
        examples = builder.as_dataset(
            split=split, shuffle_files=False, decoders={image: tfds.decode.SkipDecoding()}
        )
        count = 0
        for count, example in enumerate(tfds.as_numpy(examples), start=1):
            number = int(example[label])
            data = bytes(example[image])
            suffix = {"JPEG": "jpg", "PNG": "png"}.get(kind_of(data[:512]) or "", "bin")
            # Class names are data: folders are called by number.
            file = f"{split}/{number}/{count - 1:06d}.{suffix}"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
            row = {"file": file, "label": number, "split": split}
            rows.append({**row, "id": f"{_TFDS_SPLITS[split]}/{count - 1:05d}"})
        expected = builder.info.splits[split].num_examples
        if count != expected:
            raise DataError(
                f"split {split!r} has {count} examples, its description says {expected}",
                where=builder.info.full_name,
                next_action="delete the prepared data set and prepare it again",
            )
    return rows
