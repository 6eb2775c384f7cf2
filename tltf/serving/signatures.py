"""What a servable answers: the same functions in the trainer's process and in the SavedModel.

A modality plugs in by its :class:`~tltf.serving.intake.Intake`, a task by its
:class:`~tltf.serving.decision.Decision`; the signatures themselves know neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tltf.models.classifier import with_features
from tltf.serving.decision import Answers, Decision, answers, blank_rows, unfamiliarity
from tltf.serving.intake import Intake

Signature = Callable[..., Answers]


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """The functions of a servable by name, and what they are made of.

    Args:
      functions: ``tf.function`` with an input signature and a dict of outputs each.
      intake: how requests are read.
      decision: how logits become answers.
      tracked: lookup tables, assets and restored objects that the SavedModel must keep.
    """

    functions: Mapping[str, Signature]
    intake: Intake
    decision: Decision
    tracked: Sequence[Any] = ()


def signatures(
    model: keras.Model, decision: Decision, *, intake: Intake, tracked: Sequence[Any] = ()
) -> Signatures:
    """The signatures of a model.

    - ``serving_default``: the intake's string input ``[B]`` -> the answers of ``decision``. A
      row that cannot be read answers with label ``""``, label_id -1, probabilities of zero and
      ``accepted`` false, and does not fail its neighbours.
    - ``predict``: the intake's tensors, such as float ``images`` ``[B, H, W, 3]``, likewise.
    - ``features``: the string input -> pooled ``features`` (models with a backbone only), and
      ``unfamiliarity``: above 1 an input is stranger than 95 % of validation.
    - ``classify``, for a regression ``regress``: serialized ``tf.train.Example`` in ``inputs``,
      for clients of TF Serving's Classify and Regress calls; the feature is called like the
      string input.

    Args:
      model: from the intake's model input to logits ``[B, C]``.
      tracked: what the model needs beyond variables, such as a hub layer's restored object.

    Raises:
      ArgumentError: the number of classes is not the number of logits.
    """
    decision.check_outputs(model.output_shape[-1])
    whole = with_features(model)

    # One function that all signatures call: the graph of the network is stored once.
    @tf.function(autograph=False)
    def network(x: Any) -> Answers:
        if whole is None:
            return {"logits": tf.cast(model(x, training=False), tf.float32)}
        features, logits = whole(x, training=False)
        return {"logits": tf.cast(logits, tf.float32), "features": tf.cast(features, tf.float32)}

    @tf.function(autograph=False)
    def of_rows(rows: tf.Tensor) -> Answers:
        x, good = intake.read(rows)
        found = network(x)
        logits = found.pop("logits")
        return {**blank_rows(answers(logits, decision), good), **found}

    functions = {
        "serving_default": _serving_default(of_rows, intake),
        "predict": _predict(network, intake, decision),
        "regress" if decision.task == "regression" else "classify": _of_examples(
            of_rows, intake, decision
        ),
    }
    if whole is not None:
        functions["features"] = _features(of_rows, intake, decision)
    return Signatures(
        functions=functions,
        intake=intake,
        decision=decision,
        tracked=(*intake.tracked, *tracked),
    )


def _serving_default(of_rows: Signature, intake: Intake) -> Signature:
    @tf.function(input_signature=[_strings(intake.key)], autograph=False)
    def serving_default(rows: tf.Tensor) -> Answers:
        return _without_features(of_rows(rows))

    return serving_default


def _predict(network: Signature, intake: Intake, decision: Decision) -> Signature:
    @tf.function(input_signature=list(intake.tensors), autograph=False)
    def predict(*tensors: tf.Tensor) -> Answers:
        return answers(network(intake.convert(*tensors))["logits"], decision)

    return predict


def _features(of_rows: Signature, intake: Intake, decision: Decision) -> Signature:
    @tf.function(input_signature=[_strings(intake.key)], autograph=False)
    def features(rows: tf.Tensor) -> Answers:
        found = of_rows(rows)["features"]
        if decision.familiarity is None:
            return {"features": found}
        strange = unfamiliarity(found, decision.familiarity)
        return {"features": found, "unfamiliarity": strange}

    return features


def _of_examples(of_rows: Signature, intake: Intake, decision: Decision) -> Signature:
    """TF Serving's names: ``inputs`` -> ``classes`` and ``scores``, or ``outputs``."""
    feature = {intake.key: tf.io.FixedLenFeature([], tf.string, default_value="")}

    @tf.function(input_signature=[_strings("inputs")], autograph=False)
    def of_examples(inputs: tf.Tensor) -> Answers:
        found = of_rows(tf.io.parse_example(inputs, feature)[intake.key])
        if decision.task == "regression":
            return {"outputs": found["value"]}
        scores = found["probabilities"]
        names = tf.broadcast_to(tf.constant(decision.names)[None, :], tf.shape(scores))
        return {"classes": names, "scores": scores}

    return of_examples


def _without_features(found: Answers) -> Answers:
    return {key: value for key, value in found.items() if key != "features"}


def _strings(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None], tf.string, name=name)
