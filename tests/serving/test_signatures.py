"""What a servable answers, before and after it is written."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from pictures import encoded, pixels
from PIL import Image

from tltf.data import decoding
from tltf.errors import ArgumentError
from tltf.serving import signatures
from tltf.serving.signatures import Decision, answers, functions

CLASSES = ("cat", "größe|x")


def png(seed: int, **shape: int) -> bytes:
    return encoded(Image.fromarray(pixels(seed, **shape)), "PNG")


def numpy(found: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in found.items()}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    model = tiny.classifier(dropout=0.5, head_dropout=0.5)
    decision = Decision(task="single_label", classes=CLASSES, temperature=2.0, threshold=0.5)
    return functions(model, decision, image_size=tiny.SIDE)


def test_a_row_that_is_no_image_does_not_fail_its_neighbours(found: dict[str, Any]) -> None:
    good = [png(1), png(2, height=30, width=9)]
    rows = numpy(found["serving_default"](tf.constant([good[0], b"", b"\x89PNGbad", good[1]])))
    alone = numpy(found["serving_default"](tf.constant(good)))
    for key in rows:
        np.testing.assert_array_equal(rows[key][[0, 3]], alone[key])
    for bad in (1, 2):
        assert rows["label"][bad] == b""
        assert rows["label_id"][bad] == -1
        assert not rows["probabilities"][bad].any()
        assert (rows["confidence"][bad], rows["accepted"][bad]) == (0.0, False)
    again = numpy(found["serving_default"](tf.constant(good)))
    np.testing.assert_array_equal(again["probabilities"], alone["probabilities"])


def test_predict_agrees_with_serving_default(found: dict[str, Any]) -> None:
    data = [png(i, height=14, width=20) for i in range(5)]
    images = tf.stack([tf.cast(decoding.decode(tf.constant(item)), tf.float32) for item in data])
    ours, theirs = (
        numpy(found["predict"](images)),
        numpy(found["serving_default"](tf.constant(data))),
    )
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-6)
    np.testing.assert_array_equal(ours["label"], theirs["label"])


def test_features_are_the_pooled_ones(found: dict[str, Any]) -> None:
    assert numpy(found["features"](tf.constant([png(1)])))["features"].shape == (1, 4)


def test_single_label_by_hand() -> None:
    logits = np.array([[2.0, 0.0], [-1.0, 1.0]], "float32")
    decision = Decision(task="single_label", classes=CLASSES, temperature=2.0, threshold=0.7312)
    rows = numpy(answers(tf.constant(logits), decision))
    expected = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(rows["probabilities"][0], [expected, 1 - expected], rtol=1e-6)
    assert [item.decode() for item in rows["label"]] == list(CLASSES)
    assert rows["accepted"].tolist() == [False, False]
    assert rows["label_id"].tolist() == [0, 1]


def test_multi_label_joins_the_names() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [-1.0, 2.0, -3.0], [1.0, -9.0, 0.0]])
    decision = Decision(task="multi_label", classes=("a", "b", "c"), threshold=0.6)
    rows = numpy(answers(tf.constant(logits, tf.float32), decision))
    assert rows["label"].tolist() == [b"a|b|c", b"", b"b", b"a|c"]
    np.testing.assert_allclose(rows["confidence"][0], 1 / (1 + np.exp(-1.0)), rtol=1e-6)
    assert rows["accepted"].tolist() == [True, True, True, False]


def test_regression_answers_with_its_value() -> None:
    rows = answers(tf.constant([[1.5], [-2.0]]), Decision(task="regression"))
    assert {key: value.numpy().tolist() for key, value in rows.items()} == {"value": [1.5, -2.0]}
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    served = functions(model, Decision(task="regression"), image_size=4)
    value = numpy(served["serving_default"](tf.constant([b"bad", png(1)])))["value"]
    assert np.isnan(value[0])
    assert np.isfinite(value[1])
    assert "features" not in served


def test_labels_must_fit_the_logits() -> None:
    decision = Decision(task="single_label", classes=("a", "b", "c"))
    with pytest.raises(ArgumentError, match="3 labels for a model with 2 logits"):
        signatures.functions(tiny.classifier(), decision, image_size=tiny.SIDE)
