"""Answers for files, from a run or from a published servable, by the same signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tltf import storage
from tltf.data.scan import reason_against
from tltf.errors import InputMissingError, printable
from tltf.serving import publish

Answer = Callable[..., dict[str, tf.Tensor]]


@dataclass(frozen=True)
class Opened:
    """A model ready to answer: ``answer(image_bytes=...)`` and the classes in order."""

    answer: Answer
    classes: tuple[str, ...]
    task: str


def open_servable(folder: Path) -> Opened:
    """A version folder, or the newest version below ``folder``.

    Raises:
      InputMissingError: neither.
    """
    version = folder if (folder / "saved_model.pb").is_file() else publish.newest(folder)
    if version is None or not (version / "saved_model.pb").is_file():
        raise InputMissingError(
            "neither a run folder nor a servable",
            where=folder,
            next_action="pass a --workdir, or a folder that `tltf export` wrote",
        )
    fields = storage.read_json(version / "assets" / "tltf.json")
    loaded = tf.saved_model.load(str(version))
    signature = loaded.signatures["serving_default"]

    # The loaded object must live as long as its function.
    def answer(image_bytes: tf.Tensor, _kept: Any = loaded) -> dict[str, tf.Tensor]:
        return signature(image_bytes=image_bytes)

    return Opened(answer, tuple(fields["classes"]), fields["task"])


def predictions(
    model: Opened, names: Sequence[str], *, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """One row for each file, in order.

    Yields:
      ``{"id", "label", "probabilities", "confidence", "accepted"}`` (``{"id", "value"}`` for
      a regression), or ``{"id", "error"}``; ``probabilities`` in the order of the classes.
    """
    for start in range(0, len(names), batch_size):
        batch = names[start : start + batch_size]
        reasons = [reason_against(name) for name in batch]
        data = [
            b"" if why else Path(name).read_bytes()
            for name, why in zip(batch, reasons, strict=True)
        ]
        found = {k: v.numpy() for k, v in model.answer(image_bytes=tf.constant(data)).items()}
        for i, (name, why) in enumerate(zip(batch, reasons, strict=True)):
            row = {"error": why} if why else _row(found, i, model.task)
            yield {"id": printable(name), **row}


def _row(found: dict[str, Any], i: int, task: str) -> dict[str, Any]:
    if task == "regression":
        return {"value": float(found["value"][i])}
    return {
        "label": found["label"][i].decode("utf-8", "backslashreplace"),
        "probabilities": [float(p) for p in found["probabilities"][i]],
        "confidence": float(found["confidence"][i]),
        "accepted": bool(found["accepted"][i]),
    }
