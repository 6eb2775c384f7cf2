"""How logits become an answer: the rule that a servable carries inside its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tltf.data.textbytes import text_bytes
from tltf.errors import ArgumentError
from tltf.evaluation.calibration import apply_temperature
from tltf.evaluation.familiarity import Familiarity
from tltf.evaluation.rejection import confidence

Answers = dict[str, tf.Tensor]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How logits become an answer.

    Args:
      task: ``single_label``, ``multi_label`` or ``regression``.
      classes: names in the order of the logits; empty for regression.
      temperature: logits are divided by it before softmax or sigmoid, > 0.
      threshold: answers with a lower confidence are not ``accepted``.
      familiarity: how far features are from those of the training data; None for no score.
    """

    task: str
    classes: Sequence[str] = ()
    temperature: float = 1.0
    threshold: float = 0.0
    familiarity: Familiarity | None = None

    @property
    def names(self) -> list[bytes]:
        """The classes as bytes; a folder's name need not be UTF-8."""
        return [_name_bytes(name) for name in self.classes]

    def check_outputs(self, outputs: int) -> None:
        """Raises ArgumentError when the number of classes is not the number of logits."""
        if self.task != "regression" and outputs != len(self.classes):
            raise ArgumentError(
                f"{len(self.classes)} labels for a model with {outputs} logits",
                where="labels",
                next_action="pass one label for each output of the model, in its order",
            )


def _name_bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, from a table of JSON lines
        return text_bytes(name)


def answers(logits: tf.Tensor, decision: Decision) -> Answers:
    """Logits float32 ``[B, C]`` to the outputs of DESIGN 4.6.

    single_label: probabilities = softmax(logits / T), confidence = their maximum.
    multi_label: probabilities = sigmoid(logits / T), label = the names with p >= 0.5 joined
    by ``|``, label_id = the likeliest one, confidence = the least over labels of max(p, 1 - p).
    regression: ``value`` = the logit, and ``accepted``.
    """
    logits = tf.cast(logits, tf.float32)
    if decision.task == "regression":
        value = logits[:, 0]
        return {"value": value, "accepted": tf.math.is_finite(value)}
    names = tf.constant(decision.names)
    best = tf.argmax(logits, axis=-1)
    if decision.task == "single_label":
        probabilities = tf.nn.softmax(logits / decision.temperature)
        label = tf.gather(names, best)
        sure = tf.reduce_max(probabilities, axis=-1)
    else:
        probabilities = tf.sigmoid(logits / decision.temperature)
        label = _joined(names, probabilities >= 0.5)
        sure = tf.reduce_min(tf.maximum(probabilities, 1.0 - probabilities), axis=-1)
    return {
        "label": label,
        "label_id": best,
        "probabilities": probabilities,
        "confidence": sure,
        "accepted": sure >= decision.threshold,
    }


def unfamiliarity(features: tf.Tensor, familiarity: Familiarity) -> tf.Tensor:
    """:meth:`~tltf.evaluation.familiarity.Familiarity.score` in the graph: float32 ``[B]``.

    Args:
      features: pooled, float32 ``[B, D]``.
    """
    means = tf.constant(familiarity.means)
    directions = tf.constant(familiarity.directions)
    plain = (
        tf.reduce_sum(features**2, axis=1)[:, None]
        - 2.0 * tf.matmul(features, means, transpose_b=True)
        + tf.reduce_sum(means**2, axis=1)[None, :]
    )
    along = tf.matmul(features, directions)[:, None, :] - tf.matmul(means, directions)[None]
    squared = familiarity.rest * tf.maximum(plain, 0.0) + tf.reduce_sum(
        along**2 * tf.constant(familiarity.scales), axis=-1
    )
    return tf.sqrt(tf.maximum(tf.reduce_min(squared, axis=1), 0.0)) / familiarity.limit


def blank_rows(rows: Answers, good: tf.Tensor) -> Answers:
    """The answers with those rows emptied whose input could not be read.

    Such a row has label ``""``, label_id -1, probabilities and confidence zero (``value`` NaN),
    and is not accepted.
    """
    accepted = tf.logical_and(good, rows["accepted"])
    if "value" in rows:
        return {"value": tf.where(good, rows["value"], float("nan")), "accepted": accepted}
    return {
        "label": tf.where(good, rows["label"], ""),
        "label_id": tf.where(good, rows["label_id"], -1),
        "probabilities": tf.where(good[:, None], rows["probabilities"], 0.0),
        "confidence": tf.where(good, rows["confidence"], 0.0),
        "accepted": accepted,
    }


def expected(logits: np.ndarray, decision: Decision) -> dict[str, np.ndarray]:
    """:func:`answers` once more, by the evaluation's own NumPy functions.

    The gate before publishing compares the two, so that the graph cannot be wrong by itself.
    """
    if decision.task == "regression":
        value = np.asarray(logits, np.float32)[:, 0]
        return {"value": value, "accepted": np.isfinite(value)}
    probabilities = apply_temperature(logits, decision.temperature, task=decision.task)
    sure = confidence(probabilities, task=decision.task)
    best = np.asarray(logits).argmax(axis=1)
    names = decision.names
    if decision.task == "single_label":
        label = [names[i] for i in best]
    else:
        label = [
            b"|".join(name for name, p in zip(names, row, strict=True) if p >= 0.5)
            for row in probabilities
        ]
    return {
        "label": np.array(label, object),
        "label_id": best,
        "probabilities": probabilities,
        "confidence": sure,
        "accepted": sure >= decision.threshold,
    }


def _joined(names: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    picked = tf.where(chosen, names[None, :], "")
    joined = tf.strings.reduce_join(picked, axis=-1, separator="|")
    squeezed = tf.strings.regex_replace(joined, r"\|+", "|")
    return tf.strings.regex_replace(squeezed, r"^\||\|$", "")
