"""The test examples that were most wrong, what the model looked at, and what they resemble."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tensorflow as tf

from tltf.data.decoding import load_image
from tltf.data.manifest import Record
from tltf.errors import ArgumentError, printable
from tltf.models.gradcam import grad_cam
from tltf.stages.training import References
from tltf.trained import Trained

MOST_ERRORS, MOST_PAIRS, NEIGHBOURS = 12, 5, 3
SIDE, QUALITY = 160, 82

Pictures = dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Parts of report.json, and the pictures that they name (JPEG)."""

    errors: list[dict[str, Any]]
    confused: list[dict[str, Any]]
    pictures: Pictures


def gallery(
    model: Trained,
    records: Sequence[Record],
    probabilities: np.ndarray,
    targets: np.ndarray,
    features: np.ndarray,
    references: References,
) -> Gallery:
    """The wrong answers with the highest loss, and the most confused pairs of classes.

    Args:
      model: of the run, single_label.
      records: of the test split.
      probabilities: float ``[n, C]``.
      targets: class indices ``[n]``.
      features: pooled, ``[n, D]``, to look for neighbours among ``references``.
      references: some training records and their features.
    """
    predicted = probabilities.argmax(axis=1)
    loss = -np.log(np.clip(probabilities[np.arange(len(targets)), targets], 1e-12, 1.0))
    wrong = np.flatnonzero(predicted != targets)
    worst = wrong[np.argsort(-loss[wrong], kind="stable")]
    pictures: Pictures = {}
    errors = [
        {
            "id": printable(records[i].id),
            "label": printable(model.classes[targets[i]]),
            "predicted": printable(model.classes[predicted[i]]),
            "probability": float(probabilities[i, predicted[i]]),
            "probability_of_label": float(probabilities[i, targets[i]]),
            "loss": float(loss[i]),
        }
        for i in worst[:MOST_ERRORS]
    ]
    shown = [(row, records[i], predicted[i]) for row, i in zip(errors, worst, strict=False)]
    _add_pictures(model, shown, pictures)
    confused = _confused(model, worst, predicted, targets)
    for pair in confused:
        i = pair.pop("example")
        pair["example"] = {"id": printable(records[i].id)}
        pair["neighbours"] = _neighbours(features[i], references)
        for place, record in [(pair["example"], records[i]), *_with_records(pair, references)]:
            _add_picture(place, record, pictures)
    return Gallery(errors=errors, confused=confused, pictures=pictures)


def _confused(
    model: Trained, worst: np.ndarray, predicted: np.ndarray, targets: np.ndarray
) -> list[dict[str, Any]]:
    """Pairs of classes by how often one is taken for the other, with the worst example."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for i in worst:
        pairs.setdefault((int(targets[i]), int(predicted[i])), []).append(int(i))
    ordered = sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "label": printable(model.classes[true]),
            "predicted": printable(model.classes[said]),
            "count": len(places),
            "of": int((targets == true).sum()),
            "example": places[0],
        }
        for (true, said), places in ordered[:MOST_PAIRS]
    ]


def _neighbours(features: np.ndarray, references: References) -> list[dict[str, Any]]:
    """The training records with the largest cosine."""
    table = references.features.astype(np.float64)
    lengths = np.linalg.norm(table, axis=1) * np.linalg.norm(features)
    cosines = table @ features / np.maximum(lengths, 1e-12)
    return [
        {
            "id": printable(references.records[i].id),
            "label": printable(str(references.records[i].label)),
            "similarity": float(cosines[i]),
            "place": int(i),
        }
        for i in np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
    ]


def _with_records(
    pair: Mapping[str, Any], references: References
) -> list[tuple[dict[str, Any], Record]]:
    return [(row, references.records[row.pop("place")]) for row in pair["neighbours"]]


def _add_pictures(
    model: Trained,
    shown: Sequence[tuple[dict[str, Any], Record, int]],
    pictures: Pictures,
) -> None:
    """The images of the errors, and beside each the same under its heat map."""
    images = [(row, r, said) for row, r, said in shown if r.path is not None]
    if not images:
        return
    batch = np.stack([load_image(str(r.path), model.image_size).numpy() for _, r, _ in images])
    ids = np.array([said for _, _, said in images])
    try:
        heats = grad_cam(model.model, batch, ids)
    except ArgumentError:
        heats = None
    for k, (row, record, _) in enumerate(images):
        _add_picture(row, record, pictures)
        if heats is not None and heats[k].size > 1 and heats[k].max() > 0:
            row["heat_map"] = f"heat-{k:02d}.jpg"
            pictures[row["heat_map"]] = _jpeg(_under(load_image(str(record.path), SIDE), heats[k]))


def _add_picture(row: dict[str, Any], record: Record, pictures: Pictures) -> None:
    if record.path is not None and Path(record.path).is_file():
        row["picture"] = f"example-{len(pictures):02d}.jpg"
        pictures[row["picture"]] = _jpeg(load_image(str(record.path), SIDE))


def _under(image: tf.Tensor, heat: np.ndarray) -> tf.Tensor:
    """The image in grey, coloured where the heat is: dark blue to yellow, safe for all eyes."""
    large = tf.image.resize(heat[:, :, None], (SIDE, SIDE), method="bicubic")[:, :, 0]
    strength = np.clip(large.numpy(), 0.0, 1.0)
    colours = mpl.colormaps["viridis"](strength)[:, :, :3] * 255
    grey = tf.reduce_mean(image, axis=-1, keepdims=True).numpy()
    share = 0.15 + 0.5 * strength[:, :, None]
    return tf.constant(grey * (1 - share) + colours * share, tf.float32)


def _jpeg(image: tf.Tensor) -> bytes:
    pixels = tf.cast(tf.clip_by_value(image + 0.5, 0, 255), tf.uint8)
    return bytes(tf.io.encode_jpeg(pixels, quality=QUALITY, chroma_downsampling=True).numpy())


def data_uri(jpeg: bytes) -> str:
    """For the page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
