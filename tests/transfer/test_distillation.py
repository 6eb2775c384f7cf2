"""Distillation terms: the papers' equations, laws, and who receives gradient."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import transfer as oracle

from tltf import transfer
from tltf.errors import ArgumentError

TERMS = {
    "logits": (lambda: transfer.LogitDistillation(temperature=3.0),
               lambda s, t: oracle.distilled(s, t, 3.0)),
    "distance": (transfer.RelationalDistance, oracle.relational_distance),
    "angle": (transfer.RelationalAngle, oracle.relational_angle),
    "similarity": (transfer.SimilarityPreserving, oracle.similarity_preserving),
}  # fmt: skip


def pair(n: int = 6, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)).astype("float32"), rng.normal(size=(n, d)).astype("float32")


def value(layer, student, teacher) -> float:
    layer(student, teacher)
    return float(layer.losses[-1])


@pytest.mark.parametrize("name", TERMS)
def test_the_papers_equation_and_its_laws(name: str) -> None:
    make, expected = TERMS[name]
    student, teacher = pair()
    layer = make()
    found = value(layer, student, teacher)
    assert found == pytest.approx(
        expected(student.astype(np.float64), teacher.astype(np.float64)), abs=1e-5
    )
    assert value(layer, teacher, teacher) == pytest.approx(0, abs=1e-6)
    order = [3, 1, 5, 0, 2, 4]
    assert value(layer, student[order], teacher[order]) == pytest.approx(found, abs=1e-5)
    if name != "logits":
        # Relations do not depend on the unit of the features.
        assert value(layer, 3 * student, 5 * teacher) == pytest.approx(found, abs=1e-5)


def test_features_go_through_a_regressor() -> None:
    student, teacher = pair()
    layer = transfer.FeatureDistillation()
    wide = np.concatenate([teacher, teacher], axis=1)
    found = value(layer, student, wide)
    mapped = np.asarray(layer.regressor(student))
    assert found == pytest.approx(np.mean((mapped - wide) ** 2), abs=1e-5)


@pytest.mark.parametrize("name", [*TERMS, "feature"])
def test_the_student_learns_and_the_teacher_does_not(name: str) -> None:
    layer = transfer.FeatureDistillation() if name == "feature" else TERMS[name][0]()
    student, teacher = (tf.constant(x) for x in pair())
    with tf.GradientTape() as tape:
        tape.watch([student, teacher])
        layer(student, teacher)
        loss = layer.losses[-1]
    by_student, by_teacher = tape.gradient(loss, [student, teacher])
    assert by_teacher is None or not np.any(by_teacher)
    assert value(layer, student - 0.01 * by_student, teacher) < float(loss)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("n", [1, 4])
def test_degenerate_batches_give_finite_gradients(name: str, n: int) -> None:
    layer = TERMS[name][0]()
    student, teacher = tf.zeros((n, 3)), tf.ones((n, 3))
    with tf.GradientTape() as tape:
        tape.watch(student)
        layer(student, teacher)
        loss = layer.losses[-1]
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, student)).all()


def test_a_term_trains_in_a_plain_fit() -> None:
    inputs = [keras.Input((4,)), keras.Input((4,))]
    logits = keras.layers.Dense(4)(inputs[0])
    model = keras.Model(inputs, transfer.LogitDistillation()(logits, inputs[1]))
    model.compile("sgd", loss=None, jit_compile=True)
    student, teacher = pair()
    first = model.evaluate([student, teacher], verbose=0)
    model.fit([student, teacher], epochs=5, verbose=0)
    assert model.evaluate([student, teacher], verbose=0) < first
    assert keras.models.model_from_json(model.to_json()).count_params() == model.count_params()


def test_wrong_arguments_are_said() -> None:
    with pytest.raises(ArgumentError, match="weight=-1"):
        transfer.RelationalAngle(-1)
    with pytest.raises(ArgumentError, match="temperature=0"):
        transfer.LogitDistillation(temperature=0)
