"""Answers for files, from a run or from a published servable, by the same signature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tltf import sealed, storage
from tltf.data.imagefile import UnusableError, read_image, size_reason
from tltf.data.scan import reason_against
from tltf.data.textbytes import text_bytes
from tltf.errors import InputMissingError
from tltf.serving import publish
from tltf.serving.inputs import Item, batches
from tltf.serving.intake import MAX_PIXELS

Answer = Callable[[Sequence[bytes]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Opened:
    """A model ready to answer rows of bytes, and the classes in order.

    ``key`` names its input: ``image_bytes`` or ``text``. Images of more than ``max_pixels`` are
    refused, as they were when it was trained.
    """

    answer: Answer
    classes: tuple[str, ...]
    task: str
    key: str = "image_bytes"
    max_pixels: int = MAX_PIXELS


def open_servable(folder: Path) -> Opened:
    """A version folder, or the newest version below ``folder``.

    Raises:
      InputMissingError: neither.
      StorageError: one of its files is missing or damaged.
    """
    version = folder if (folder / "saved_model.pb").is_file() else publish.newest(folder)
    if version is None or not (version / "saved_model.pb").is_file():
        raise InputMissingError(
            "neither a run folder nor a servable",
            where=folder,
            next_action="pass a --workdir, or a folder that `tltf export` wrote",
        )
    sealed.verify(version)
    fields = storage.read_json(version / "assets" / "tltf.json")
    loaded = tf.saved_model.load(str(version))
    key = fields.get("input", "image_bytes")
    signature = loaded.signatures["serving_default"]

    # The loaded object must live as long as its function.
    def answer(rows: Sequence[bytes], _kept: Any = loaded) -> dict[str, np.ndarray]:
        return as_arrays(signature(**{key: tf.constant(list(rows))}))

    return Opened(answer, tuple(fields["classes"]), fields["task"], key, _limit(fields))


def _limit(fields: Mapping[str, Any]) -> int:
    """Pixels that the servable reads at most; one of an earlier version has its run's settings."""
    trained = (fields.get("spec") or {}).get("data") or {}
    return int(fields.get("max_image_pixels") or trained.get("max_image_pixels") or MAX_PIXELS)


def as_arrays(found: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays; strings are objects of type bytes."""
    return {key: value.numpy() for key, value in found.items()}


def predictions(
    model: Opened, inputs: Iterator[Item], *, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """One row for each input, in order, as soon as its batch is answered.

    Yields:
      ``{"id", "label", "probabilities", "accepted", "classes"}`` (``{"id", "value", "accepted"}``
      for a regression), or ``{"id", "error"}``; ``probabilities`` in the order of ``classes``.
    """
    for batch in batches(inputs, batch_size):
        read = [_read(item, model.max_pixels) for item in batch]
        good = [data for data, why in read if not why]
        found = model.answer(good) if good else {}
        at = 0
        for item, (_, why) in zip(batch, read, strict=True):
            row = {"error": why} if why else _row(found, at, model)
            at += not why
            yield {"id": item.id, **(row or {"error": _why(item, model.max_pixels)})}


def _read(item: Item, max_pixels: int) -> tuple[bytes, str]:
    """The bytes of an input, or why there are none."""
    if item.error:
        return b"", item.error
    if item.path is None:
        return text_bytes(item.text or ""), ""
    try:
        data, header = read_image(Path(item.path))
    except (UnusableError, OSError, ValueError) as error:
        return b"", str(error)
    why = size_reason(header, len(data), max_pixels)
    return (b"", why) if why else (data, "")


def _why(item: Item, max_pixels: int) -> str:
    """What is wrong with an input that the servable could not read; only then is it decoded here,
    so that a good file is decoded once."""
    found = ""
    if item.path is not None:
        found = reason_against(item.path, max_image_pixels=max_pixels)
    return found or "the servable cannot read it"


def _row(found: dict[str, Any], i: int, model: Opened) -> dict[str, Any]:
    """The fields of one answer; none when the input could not be read."""
    if model.task == "regression":
        value = float(found["value"][i])
        unread = math.isnan(value)
    else:
        unread = int(found["label_id"][i]) < 0
    if unread:
        return {}
    accepted = bool(found["accepted"][i])
    if model.task == "regression":
        return {"value": value, "accepted": accepted}
    return {
        "label": found["label"][i].decode("utf-8", "backslashreplace"),
        "probabilities": [float(p) for p in found["probabilities"][i]],
        "accepted": accepted,
        "classes": list(model.classes),
    }
