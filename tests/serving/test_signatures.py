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
from tltf.serving.decision import Decision, answers, expected
from tltf.serving.intake import ImageIntake
from tltf.serving.signatures import Signatures, signatures

CLASSES = ("cat", "größe|x")


def png(seed: int, **shape: int) -> bytes:
    return encoded(Image.fromarray(pixels(seed, **shape)), "PNG")


def numpy(found: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in found.items()}


def example(**features: bytes) -> bytes:
    """A serialized tf.train.Example."""
    lists = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()


def served(model: keras.Model, decision: Decision, **intake: int) -> Signatures:
    return signatures(model, decision, intake=ImageIntake(**{"image_size": tiny.SIDE, **intake}))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    model = tiny.classifier(dropout=0.5, head_dropout=0.5)
    decision = Decision(task="single_label", classes=CLASSES, temperature=2.0, threshold=0.5)
    return dict(served(model, decision, max_pixels=1000).functions)


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_too_many_pixels_are_not_decoded(kind: str, found: dict[str, Any]) -> None:
    sides = {"fits": (25, 40), "too large": (26, 40)}
    data = [encoded(Image.fromarray(pixels(3, height=h, width=w)), kind) for h, w in sides.values()]
    rows = numpy(found["serving_default"](tf.constant(data)))
    assert [label != b"" for label in rows["label"]] == [True, False]


def test_a_lossless_webp_and_a_bmp_from_top_to_bottom_are_measured(found: dict[str, Any]) -> None:
    small, large = (Image.fromarray(pixels(3, height=h, width=40)) for h in (25, 26))
    data = [encoded(image, "WEBP", lossless=True) for image in (small, large)]
    alpha = [encoded(image.convert("RGBA"), "WEBP", exact=True) for image in (small, large)]
    rows = numpy(found["serving_default"](tf.constant([*data, *alpha])))
    assert [label != b"" for label in rows["label"]] == [True, False, True, False]


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


def test_classify_takes_examples(found: dict[str, Any]) -> None:
    data = [png(1), png(2)]
    rows = [example(image_bytes=item, other=b"ignored") for item in data]
    classified = numpy(found["classify"](tf.constant([*rows, example(other=b"")])))
    alone = numpy(found["serving_default"](tf.constant(data)))
    np.testing.assert_allclose(classified["scores"][:2], alone["probabilities"], atol=1e-6)
    assert not classified["scores"][2].any()
    assert [name.decode() for name in classified["classes"][0]] == list(CLASSES)
    assert "regress" not in found


def test_single_label_by_hand() -> None:
    logits = np.array([[2.0, 0.0], [-1.0, 1.0]], "float32")
    decision = Decision(task="single_label", classes=CLASSES, temperature=2.0, threshold=0.7312)
    rows = numpy(answers(tf.constant(logits), decision))
    by_hand = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(rows["probabilities"][0], [by_hand, 1 - by_hand], rtol=1e-6)
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


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_the_graph_says_what_the_evaluation_says(task: str) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 3)).astype("float32")
    decision = Decision(task=task, classes=("a", "b", "c"), temperature=1.7, threshold=0.7)
    graph, numbers = numpy(answers(tf.constant(logits), decision)), expected(logits, decision)
    assert graph.keys() == numbers.keys()
    for key, value in numbers.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(graph[key], value, atol=1e-6)
        else:
            np.testing.assert_array_equal(graph[key], value)


def test_regression_answers_with_its_value() -> None:
    rows = answers(tf.constant([[1.5], [-2.0]]), Decision(task="regression"))
    assert {key: value.numpy().tolist() for key, value in rows.items()} == {
        "value": [1.5, -2.0],
        "accepted": [True, True],
    }
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    functions = served(model, Decision(task="regression"), image_size=4).functions
    answered = numpy(functions["serving_default"](tf.constant([b"bad", png(1)])))
    value = answered["value"]
    assert np.isnan(value[0])
    assert np.isfinite(value[1])
    assert answered["accepted"].tolist() == [False, True]
    regressed = functions["regress"](tf.constant([example(image_bytes=png(1))]))
    np.testing.assert_allclose(regressed["outputs"], value[1:], rtol=1e-5)
    assert functions.keys() == {"serving_default", "predict", "regress"}


def test_labels_must_fit_the_logits() -> None:
    decision = Decision(task="single_label", classes=("a", "b", "c"))
    with pytest.raises(ArgumentError, match="3 labels for a model with 2 logits"):
        served(tiny.classifier(), decision)
