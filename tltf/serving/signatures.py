"""What a servable answers: the same functions in the trainer's process and in the SavedModel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from tltf.data import decoding
from tltf.errors import ArgumentError
from tltf.models.classifier import backbone_of, feature_model

Answers = dict[str, tf.Tensor]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How logits become an answer.

    Args:
      task: ``single_label``, ``multi_label`` or ``regression``.
      classes: names in the order of the logits; empty for regression.
      temperature: logits are divided by it before softmax or sigmoid, > 0.
      threshold: answers with a lower confidence are not ``accepted``.
    """

    task: str
    classes: Sequence[str] = ()
    temperature: float = 1.0
    threshold: float = 0.0

    @property
    def names(self) -> list[bytes]:
        """The classes as bytes; a folder's name need not be UTF-8."""
        return [name.encode("utf-8", "surrogateescape") for name in self.classes]


def answers(logits: tf.Tensor, decision: Decision) -> Answers:
    """Logits float32 ``[B, C]`` to the outputs of DESIGN 4.6.

    single_label: probabilities = softmax(logits / T), confidence = their maximum.
    multi_label: probabilities = sigmoid(logits / T), label = the names with p >= 0.5 joined
    by ``|``, label_id = the likeliest one, confidence = the least over labels of max(p, 1 - p).
    regression: ``value`` = the logit.
    """
    logits = tf.cast(logits, tf.float32)
    if decision.task == "regression":
        return {"value": logits[:, 0]}
    names = tf.constant(decision.names)
    best = tf.argmax(logits, axis=-1)
    if decision.task == "single_label":
        probabilities = tf.nn.softmax(logits / decision.temperature)
        label = tf.gather(names, best)
        confidence = tf.reduce_max(probabilities, axis=-1)
    else:
        probabilities = tf.sigmoid(logits / decision.temperature)
        label = _joined(names, probabilities >= 0.5)
        sure = tf.maximum(probabilities, 1.0 - probabilities)
        confidence = tf.reduce_min(sure, axis=-1)
    return {
        "label": label,
        "label_id": best,
        "probabilities": probabilities,
        "confidence": confidence,
        "accepted": confidence >= decision.threshold,
    }


def functions(
    model: keras.Model, decision: Decision, *, image_size: int
) -> dict[str, Callable[..., Answers]]:
    """The signatures by name, as ``tf.function`` with inputs of DESIGN 4.6.

    ``serving_default``: ``image_bytes`` string ``[B]``; a row that is no image answers with
    label ``""``, label_id -1, probabilities of zero and ``accepted`` false, and does not
    fail its neighbours. ``predict``: ``images`` float32 ``[B, H, W, 3]`` in [0, 255], any
    size. ``features``: ``image_bytes`` -> pooled ``features`` (models with a Backbone only).

    Raises:
      ArgumentError: the number of classes is not the number of logits.
    """
    outputs = model.output_shape[-1]
    if decision.task != "regression" and outputs != len(decision.classes):
        raise ArgumentError(
            f"{len(decision.classes)} labels for a model with {outputs} logits",
            where="labels",
            next_action="pass one label for each output of the model, in its order",
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(image_bytes: tf.Tensor) -> Answers:
        images, good = decode_rows(image_bytes, image_size)
        return blank_rows(answers(model(images, training=False), decision), good)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="images")])
    def predict(images: tf.Tensor) -> Answers:
        resized = decoding.resize(images, image_size)
        return answers(model(resized, training=False), decision)

    found: dict[str, Callable[..., Answers]] = {
        "serving_default": serving_default,
        "predict": predict,
    }
    if backbone_of(model) is not None:
        found["features"] = _features(feature_model(model), image_size)
    return found


def decode_rows(image_bytes: tf.Tensor, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Images float32 ``[B, S, S, 3]``, black where a row cannot be decoded, and bool ``[B]``."""

    def one(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        black = tf.zeros([image_size, image_size, 3]), tf.constant(False)

        def decoded(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return decoding.resize(decoding.decode(raw), image_size), tf.constant(True)

        # An op that fails ends a whole graph; a data set can pass over the failed element.
        rows = tf.data.Dataset.from_tensors(data).map(decoded).ignore_errors()
        rows = rows.concatenate(tf.data.Dataset.from_tensors(black)).take(1)
        return rows.get_single_element()

    return tf.map_fn(
        one,
        image_bytes,
        fn_output_signature=(
            tf.TensorSpec([image_size, image_size, 3], tf.float32),
            tf.TensorSpec([], tf.bool),
        ),
    )


def blank_rows(rows: Answers, good: tf.Tensor) -> Answers:
    """The answers with those rows emptied whose image could not be decoded."""
    if "value" in rows:
        return {"value": tf.where(good, rows["value"], float("nan"))}
    return {
        "label": tf.where(good, rows["label"], ""),
        "label_id": tf.where(good, rows["label_id"], -1),
        "probabilities": tf.where(good[:, None], rows["probabilities"], 0.0),
        "confidence": tf.where(good, rows["confidence"], 0.0),
        "accepted": tf.logical_and(good, rows["accepted"]),
    }


def _features(model: keras.Model, image_size: int) -> Callable[..., Answers]:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def features(image_bytes: tf.Tensor) -> Answers:
        images, _ = decode_rows(image_bytes, image_size)
        return {"features": tf.cast(model(images, training=False), tf.float32)}

    return features


def _joined(names: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    picked = tf.where(chosen, names[None, :], "")
    joined = tf.strings.reduce_join(picked, axis=-1, separator="|")
    squeezed = tf.strings.regex_replace(joined, r"\|+", "|")
    return tf.strings.regex_replace(squeezed, r"^\||\|$", "")
