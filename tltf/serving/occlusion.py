"""Why this answer? What changes when a part of the input is covered (Zeiler and Fergus 2014, 4.2).

It asks the published functions only, so it explains any servable, whatever model is inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tltf.data import decoding

GRID = 8
MAX_SIDE = 256
MAX_WORDS = 64

Call = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


def explain(call: Call, key: str, row: bytes) -> dict[str, Any]:
    """The answer to one row, and what each part of it contributes.

    With p the probability of the answered class (for a regression the value), a part's weight is
    ``p(whole) - p(part covered)``: positive where the part speaks for the answer.

    Args:
      call: runs a signature by name.
      key: the string input: ``image_bytes`` or ``text``.
      row: an image file, or UTF-8 text.

    Returns:
      The answer's fields, and ``map`` (GRID x GRID weights of the image's cells) or ``words``
      (pairs of word and weight). Neither when the row cannot be read.
    """
    found = call("serving_default", {key: np.array([row], object)})
    answer = {name: _plain(value[0]) for name, value in found.items()}
    if not answer.get("accepted") and not answer.get("label", "x"):
        return answer
    if key == "text":
        return {**answer, "words": _words(call, row, found)}
    return {**answer, "map": _cells(call, row, found)}


def _cells(call: Call, row: bytes, found: dict[str, np.ndarray]) -> list[list[float]]:
    image = tf.cast(decoding.decode(tf.constant(row)), tf.float32).numpy()
    if max(image.shape[:2]) > MAX_SIDE:
        image = decoding.resize(image, MAX_SIDE).numpy()
    height, width = image.shape[:2]
    colour = image.mean(axis=(0, 1))
    covered = np.repeat(image[None], GRID * GRID + 1, axis=0)
    for i in range(GRID * GRID):
        y, x = divmod(i, GRID)
        rows = slice(y * height // GRID, max((y + 1) * height // GRID, y * height // GRID + 1))
        columns = slice(x * width // GRID, max((x + 1) * width // GRID, x * width // GRID + 1))
        covered[i + 1, rows, columns] = colour
    scores = _scores(call("predict", {"images": covered}), found)
    return (scores[0] - scores[1:]).reshape(GRID, GRID).tolist()


def _words(call: Call, row: bytes, found: dict[str, np.ndarray]) -> list[list[Any]]:
    words = row.decode("utf-8", "replace").split()[:MAX_WORDS]
    texts = [" ".join(words[:i] + words[i + 1 :]).encode() for i in range(len(words))]
    whole = " ".join(words).encode()
    scores = _scores(call("serving_default", {"text": np.array([whole, *texts], object)}), found)
    return [[word, float(w)] for word, w in zip(words, scores[0] - scores[1:], strict=True)]


def _scores(rows: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> np.ndarray:
    if "value" in rows:
        return rows["value"]
    return rows["probabilities"][:, int(found["label_id"][0])]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist()
