"""Writes a SavedModel, tries it in a fresh process, and only then publishes it."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tltf import storage
from tltf.backbones.hub.layer import restored_objects
from tltf.errors import ArgumentError, printable
from tltf.rundir import check_writable
from tltf.serving import parity, publish
from tltf.serving.signatures import Decision, functions

MAX_SAMPLE_BYTES = 200_000


def export(
    model: keras.Model,
    *,
    to: str | Path,
    labels: Sequence[str] = (),
    task: str = "single_label",
    temperature: float = 1.0,
    threshold: float = 0.0,
    image_size: int | None = None,
    examples: Sequence[str | Path] = (),
    spec_json: str = "",
) -> Path:
    """Publishes ``model`` as the next version below ``to`` (DESIGN 4.6).

    Preprocessing, labels, temperature and the reject rule live inside the graph; nothing of
    training does. Before it is published, the SavedModel is loaded in a process that imports
    only TensorFlow, and its answers to ``examples`` are compared with the model's.

    Args:
      model: from float images ``[B, S, S, 3]`` in [0, 255] to logits, e.g. of
        :func:`tltf.classifier`; its first input axis is free.
      to: the folder that holds the versions, created if its parent exists.
      labels: class names in the order of the logits; none for regression.
      task: ``single_label``, ``multi_label`` or ``regression``.
      temperature, threshold: see :class:`tltf.serving.signatures.Decision`.
      image_size: S; None takes it from the model's input.
      examples: image files for the comparison; without any, random images are compared.
      spec_json: the run's specification, kept among the assets.

    Returns:
      The published folder ``to/<version>``.

    Raises:
      ArgumentError: labels and logits do not fit, or the size is not known.
      DataError: the reloaded SavedModel answers differently; nothing is published.
      OutputError: ``to`` cannot be written.

    Example::

      folder = tltf.export(model, labels=["ant", "bee"], to="servable")
    """
    decision = Decision(
        task=task, classes=tuple(labels), temperature=temperature, threshold=threshold
    )
    side = image_size or model.input_shape[1]
    if side is None:
        raise ArgumentError(
            "the model takes any size", where="export", next_action="set image_size"
        )
    signatures = functions(model, decision, image_size=int(side))
    folder = Path(to)
    check_writable(folder, flag="to")
    temporary = storage.sibling(folder / "version")
    try:
        _write(temporary, signatures, decision, spec_json, kept=restored_objects(model))
        _write_sample(temporary, examples)
        parity.check(temporary, signatures, examples=[Path(e) for e in examples], image_size=side)
        return publish.commit(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    folder: Path,
    signatures: dict[str, Any],
    decision: Decision,
    spec_json: str,
    *,
    kept: Sequence[Any],
) -> None:
    # The model itself is not tracked: its variables are found through the functions, and
    # tracking it would store every weight twice (FACTS 3.2).
    archive = keras.export.ExportArchive()
    for restored in kept:
        archive.track(restored)
    for name, function in signatures.items():
        archive.add_endpoint(name, function)
    archive.write_out(str(folder), verbose=False)
    assets = folder / "assets"
    assets.mkdir(exist_ok=True)
    labels = "".join(f"{printable(name)}\n" for name in decision.classes)
    storage.write_text(assets / "labels.txt", labels)
    storage.write_json(
        assets / "tltf.json",
        {
            "task": decision.task,
            "classes": [printable(name) for name in decision.classes],
            "temperature": decision.temperature,
            "threshold": decision.threshold,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "spec": json.loads(spec_json) if spec_json else None,
        },
    )


def _write_sample(folder: Path, examples: Sequence[str | Path]) -> None:
    """A request that curl can send to a REST server, with a real image where one is small."""
    small = (Path(e) for e in examples if Path(e).stat().st_size <= MAX_SAMPLE_BYTES)
    chosen = next(small, None)
    if chosen is not None:
        data = chosen.read_bytes()
    else:
        data = tf.io.encode_png(tf.zeros([32, 32, 3], tf.uint8)).numpy()
    request = {"instances": [{"image_bytes": {"b64": base64.b64encode(data).decode()}}]}
    storage.write_json(folder / "sample_request.json", request)
